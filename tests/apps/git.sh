#!/bin/bash
# git: a repository with branches, a merge, a conflict, a clone and a push.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export HOME=$dir GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' LC_ALL=C
git config --global user.name Test
git config --global user.email test@example.org
git config --global init.defaultBranch main
git init -q repo
cd repo
for i in $(seq 50); do mkdir -p "d$((i % 5))"; echo "line $i" >"d$((i % 5))/f$i"; done
git add .
git commit -qm first
[[ $(git rev-parse HEAD) == 7* || $(git rev-parse HEAD) =~ ^[0-9a-f]{40}$ ]]
[[ $(git ls-files | wc -l) == 50 ]]
echo more >>d1/f1
[[ $(git status --porcelain) == ' M d1/f1' ]]
git diff --quiet && exit 1
git commit -qam second
git checkout -qb side HEAD~1
echo side >side.txt
git add side.txt
git commit -qm side
git checkout -q main
git merge -q --no-edit side
[[ $(git log --oneline | wc -l) == 4 ]]
git checkout -qb conflict HEAD~1
echo other >side.txt
git add side.txt
git commit -qm other
if git merge -q main >/dev/null 2>&1; then exit 1; fi
[[ $(git status --porcelain side.txt) == 'AA side.txt' ]]
echo resolved >side.txt
git add side.txt
git commit -qm resolved
git tag -a v1 -m v1
git describe >/dev/null
git stash list
git gc -q
git fsck >/dev/null 2>&1
cd ..
git clone -q --bare repo bare.git
git clone -q bare.git work
cd work
[[ $(cat side.txt) == resolved || $(git branch --show-current) == main ]]
echo pushed >pushed
git add pushed
git commit -qm pushed
git push -q origin HEAD
[[ $(git -C ../bare.git log -1 --format=%s) == pushed ]]
git log --stat -3 >/dev/null
git grep -q 'line 7'
git archive HEAD | tar t | grep d1/f1 >/dev/null
echo "git: all passed"
