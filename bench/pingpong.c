// pingpong: `pingpong serve PORT` sends back each byte of each connection; `pingpong ADDRESS PORT COUNT` sends one COUNT times, each when the last is
// back, and prints the nanoseconds that one way and back take on average.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int serve(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (void *)&at, sizeof at) < 0 || listen(s, 8) < 0) return 1;
    for (;;) {
        int c = accept(s, NULL, NULL);
        char byte;
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        while (read(c, &byte, 1) == 1 && write(c, &byte, 1) == 1) {}
        close(c);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(atoi(argv[2]));
    if (argc != 4) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0), count = atoi(argv[3]);
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    if (connect(s, (void *)&to, sizeof to) < 0) return 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct timespec from, end;
    char byte = 'x';
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < count; i++)
        if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1) return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%lld\n", ((end.tv_sec - from.tv_sec) * 1000000000LL + end.tv_nsec - from.tv_nsec) / count);
    return 0;
}
