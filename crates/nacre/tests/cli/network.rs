//! Networks by the host's CNI plugins, in a network namespace that plays the host.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::Place;

/// A network of the tests' own, with all that is left of it in the place's folder.
fn configure(place: &Place) {
    let config = serde_json::json!({"cniVersion": "0.4.0", "name": "tests", "plugins": [
        {"type": "bridge", "bridge": "nacretests", "isGateway": true, "ipam": {"type": "host-local",
            "dataDir": place.dir.join("ipam"), "ranges": [[{"subnet": "10.203.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    fs::create_dir_all(place.dir.join("net.d")).expect("a folder");
    fs::write(place.dir.join("net.d/10-tests.conflist"), config.to_string()).expect("a file");
}

/// Runs a script on the host that a namespace plays, with `$nacre` and `$root`; what it prints.
fn on_a_host(place: &Place, script: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/lib/cni/portmap").exists() {
        eprintln!("not tested: not root, or no CNI plugins on this host");
        return None;
    }
    configure(place);
    let nacre = place.command(&[]);
    let root: Vec<_> = nacre.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let script = format!("set -e; trap 'kill -9 $background 2>/dev/null || true' EXIT; ip link set lo up; {script}");
    // What it leaves in the background keeps files open, not a pipe that we would wait for.
    let files = ["out", "err"].map(|name| place.dir.join(name));
    let [out, err] = files.each_ref().map(|path| fs::File::create(path).expect("a file"));
    let status = Command::new("timeout")
        .args(["60", "unshare", "--net", "sh", "-c", &script])
        .env("nacre", format!("{} {}", nacre.get_program().to_string_lossy(), root.join(" ")))
        .env("root", place.bundle().join("rootfs"))
        .env("NETCONFPATH", place.dir.join("net.d"))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .expect("timeout");
    let [text, errors] = files.map(|path| fs::read_to_string(path).expect("text"));
    assert!(status.success(), "{status}: {text}{errors}");
    Some(text)
}

/// Addresses that are given out: a file each.
fn leases(place: &Place) -> usize {
    let files = fs::read_dir(place.dir.join("ipam/tests")).into_iter().flatten().flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count()
}

#[test]
fn plugins_make_a_network_and_undo_it() {
    let Some(place) = Place::new("cni").busybox() else { return };
    let page = "echo here > /page; busybox httpd -p 80 -h /; sleep 1000";
    let script = format!(
        "$nacre do --root $root --net cni:tests -p 18080:80 -- sh -c '{page}' & background=$!; \
         for i in $(seq 100); do busybox wget -qO- http://10.203.0.2/page && break; sleep 0.1; done; \
         busybox wget -qO- http://10.203.0.1:18080/page; \
         $nacre do --root $root --net cni -- busybox wget -qO- http://10.203.0.2/page; \
         kill $background; wait $background || true; \
         for i in $(seq 50); do ip -o link show type veth | grep -q . || break; sleep 0.1; done; ip -o link show type veth | wc -l"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    assert_eq!(text, "here\nhere\nhere\n0\n");
    assert_eq!(leases(&place), 0, "addresses are given back");
}

#[test]
fn what_a_killed_process_had_is_given_back() {
    let Some(place) = Place::new("cni-killed").busybox() else { return };
    let script = "$nacre do --root $root --net cni -- sleep 1000 & background=$!; \
         for i in $(seq 100); do ip -o link show type veth | grep -q . && break; sleep 0.1; done; sleep 0.3; \
         kill -9 $background; wait $background || true; \
         $nacre do --root $root --net cni -- true";
    let Some(_) = on_a_host(&place, script) else { return };
    assert_eq!(leases(&place), 0, "the next one has given back what it had");
}

#[test]
fn errors_name_what_is_missing() {
    let Some(place) = Place::new("cni-errors").busybox() else { return };
    place.nacre(&["do", "--net", "none", "-p", "1:1", "--", "true"]).fails(1, "--publish needs --net cni");
    place.nacre(&["do", "--net", "elsewhere", "--", "true"]).fails(1, "neither none, host, cni nor the path");
    let script = "$nacre do --root $root --net cni:other -- true 2>&1 || true; \
        sed -i 's/:.bridge./:\"no-such-plugin\"/' $NETCONFPATH/*; $nacre do --root $root --net cni -- true 2>&1 || true";
    let Some(text) = on_a_host(&place, script) else { return };
    assert!(text.contains("there is no CNI network") && text.contains("other"), "{text}");
    assert!(text.contains("CNI plugin no-such-plugin is not in"), "{text}");
}
