#!/bin/bash
# git at work: clone, gc, fsck, bundle, worktree, rebase on a repository of some hundred commits.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export HOME=$dir LC_ALL=C
git config --global user.name Test
git config --global user.email test@example.org
git config --global init.defaultBranch main
git config --global gc.auto 0
git init -q a
cd a
for i in $(seq ${GIT_COMMITS:-60}); do
    mkdir -p d$((i % 7))
    seq $i $((i + 200)) >d$((i % 7))/f$((i % 13))
    git add . && git commit -qm "commit $i"
done
git tag -a v1 -m one
cd ..
git clone -q a b
git clone -q --bare --no-local a c.git
(cd c.git && git gc -q --aggressive --prune=now && git fsck --full --strict && [ "$(ls objects/pack/*.pack | wc -l)" = 1 ])
(cd b && git checkout -q -b side HEAD~20 && echo x >x && git add x && git commit -qm x && git rebase -q main && git push -q ../c.git side)
[ "$(git -C c.git rev-list --count side)" = $((${GIT_COMMITS:-60} + 1)) ]
(cd a && git bundle create -q ../all.bundle --all && git bundle verify -q ../all.bundle)
git clone -q all.bundle d
(cd d && git worktree add -q ../w v1 && cd ../w && git fsck)
(cd a && git fsck)
git -C a archive --format=tar v1 | tar t | wc -l
(cd a && git grep -c 100 >/dev/null && [ "$(git log --stat -n 20 | grep -c changed)" = 20 ] && git blame d1/f1 >/dev/null)
