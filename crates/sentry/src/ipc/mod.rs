//! Objects by which tasks talk: pipes, epoll, eventfd, unix sockets, futexes, terminals.
