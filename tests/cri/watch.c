// Watches a directory as programs watch a ConfigMap: says what is in its `key` at first, and whenever the link to the data is replaced.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

static void say_key(const char *what) {
    char text[100] = "";
    FILE *file = fopen("key", "r");
    if (file && !fgets(text, sizeof text, file)) text[0] = 0;
    if (file) fclose(file);
    printf("%s %s\n", what, text);
    fflush(stdout);
}

int main(int argc, char **argv) {
    char events[4096] __attribute__((aligned(8)));
    int in = inotify_init();
    if (argc != 2 || chdir(argv[1]) < 0 || inotify_add_watch(in, ".", IN_MOVED_TO | IN_CREATE) < 0) {
        perror("watch");
        return 1;
    }
    say_key("first");
    for (ssize_t n; (n = read(in, events, sizeof events)) > 0;)
        for (char *at = events; at < events + n;) {
            struct inotify_event *event = (void *)at;
            at += sizeof *event + event->len;
            if (event->mask & IN_MOVED_TO && !strcmp(event->name, "..data")) say_key("then");
        }
    return 1;
}
