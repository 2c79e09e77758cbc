#!/bin/bash
# apt and dpkg: a local repository of two packages made here; install, upgrade, query, remove, purge. Only where / may be changed.
set -eu
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
cd $dir
chmod 755 $dir
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
package() { # NAME VERSION DEPENDS
    mkdir -p p/DEBIAN p/usr/share/$1 p/etc
    printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <t@example.org>\nDepends: %s\nDescription: test\n' $1 $2 "$3" >p/DEBIAN/control
    echo "$1 $2" >p/usr/share/$1/text
    echo "conf of $1" >p/etc/$1.conf
    echo /etc/$1.conf >p/DEBIAN/conffiles
    printf '#!/bin/sh\nset -e\nln -sf text /usr/share/%s/link\n' $1 >p/DEBIAN/postinst
    printf '#!/bin/sh\nset -e\nrm -f /usr/share/%s/link\n' $1 >p/DEBIAN/prerm
    chmod 755 p/DEBIAN/postinst p/DEBIAN/prerm
    dpkg-deb --root-owner-group -b p repo/$1_$2_all.deb >/dev/null
    rm -rf p
}
index() { (cd repo && dpkg-scanpackages -m . >Packages 2>/dev/null && gzip -kf Packages); }
mkdir -p repo lists/partial cache/archives/partial
package nacre-base 1.0 dpkg
package nacre-app 1.0 'nacre-base (>= 1.0)'
index
echo "deb [trusted=yes] file:$dir/repo ./" >sources
apt() { apt-get -q -y -o Dir::Etc::SourceList=$dir/sources -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$dir/lists -o Dir::Cache=$dir/cache "$@"; }
apt update >/dev/null
apt install nacre-app >log 2>&1 || { cat log; exit 1; }
[ "$(cat /usr/share/nacre-base/link)" = 'nacre-base 1.0' ]
[ "$(dpkg-query -W -f '${Status}' nacre-app)" = 'install ok installed' ]
package nacre-app 2.0 nacre-base
index
apt update >/dev/null
apt upgrade >log 2>&1 || { cat log; exit 1; }
apt install nacre-app >log 2>&1 || { cat log; exit 1; }
[ "$(cat /usr/share/nacre-app/text)" = 'nacre-app 2.0' ]
dpkg -V nacre-app nacre-base
apt remove nacre-base >log 2>&1 || { cat log; exit 1; }
[ ! -e /usr/share/nacre-app ] && [ -e /etc/nacre-app.conf ]
apt purge nacre-app nacre-base >log 2>&1 || { cat log; exit 1; }
[ ! -e /etc/nacre-app.conf ]
