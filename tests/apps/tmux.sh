#!/bin/bash
# tmux: a server, two panes, what they show, and its end.
set -eu
export LC_ALL=C.UTF-8 TERM=xterm
dir=$(mktemp -d)
t() { tmux -S $dir/s -f /dev/null "$@"; }
trap 't kill-server 2>/dev/null || true; rm -rf $dir' EXIT
t new-session -d -x 100 -y 30 -s one "sh"
t send-keys -t one 'echo $((6*7))-is-it' Enter
for _ in $(seq 50); do t capture-pane -p -t one | grep -q '^42-is-it' && break; sleep 0.1; done
t capture-pane -p -t one | grep -q '^42-is-it'
t split-window -h -t one 'sleep 100'
[ "$(t list-panes -t one | wc -l)" = 2 ]
# A key that comes before the pane has its terminal is lost: it is pressed again.
for _ in $(seq 50); do
    t send-keys -t one.1 C-c || true
    sleep 0.1
    [ "$(t list-panes -t one | wc -l)" = 1 ] && break
done
[ "$(t list-panes -t one | wc -l)" = 1 ]
t resize-window -t one -x 77 -y 20
[ "$(t display-message -p -t one '#{window_width}x#{window_height}')" = 77x20 ]
t kill-server
