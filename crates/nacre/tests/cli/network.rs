//! Networks by the host's CNI plugins, in a network namespace that plays the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Place, in_vm};

/// Networks of the tests' own, with all that is left of them in the place's folder: `tests`, and two with our own plugin, after bridge and after ptp.
fn configure(place: &Place) {
    let ipam = || {
        serde_json::json!({"type": "host-local", "dataDir": place.dir.join("ipam"), "ranges": [[{"subnet": "10.203.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]})
    };
    let bridge = || {
        serde_json::json!({"type": "bridge", "bridge": "nacretests", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": ipam()})
    };
    let portmap = serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let ours = serde_json::json!({"type": "nacre-cni"});
    let ptp = serde_json::json!({"type": "ptp", "ipMasq": true, "ipam": ipam()});
    // One that names servers, and one whose second plugin refuses what the first has done.
    let mut named = bridge();
    named["dns"] =
        serde_json::json!({"nameservers": ["10.203.0.53", "fd00::53"], "search": ["tests.example"], "options": ["ndots:2"]});
    let refuses = serde_json::json!({"type": "refuses"});
    let lists = [
        ("10", "tests", vec![bridge(), portmap.clone()]),
        ("20", "tap", vec![bridge(), ours.clone(), portmap]),
        ("30", "ptp", vec![ptp, ours]),
        ("40", "dns", vec![named]),
        ("50", "refused", vec![bridge(), refuses]),
    ];
    fs::create_dir_all(place.dir.join("net.d")).expect("a folder");
    for (order, name, plugins) in lists {
        let config = serde_json::json!({"cniVersion": "0.4.0", "name": name, "plugins": plugins});
        fs::write(place.dir.join(format!("net.d/{order}-{name}.conflist")), config.to_string()).expect("a file");
    }
    fs::create_dir_all(place.dir.join("plugins")).expect("a folder");
    let nacre = place.command(&[]).get_program().to_owned();
    std::os::unix::fs::symlink(nacre, place.dir.join("plugins/nacre-cni")).expect("a link");
    let refuses = place.dir.join("plugins/refuses");
    fs::write(&refuses, "#!/bin/sh\ntest $CNI_COMMAND = DEL && exit 0\necho '{\"msg\":\"not here\"}'; exit 1\n")
        .expect("a script");
    fs::set_permissions(refuses, fs::Permissions::from_mode(0o755)).expect("its mode");
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
        .env("state", place.dir.join("state"))
        .env("NETCONFPATH", place.dir.join("net.d"))
        .env("CNI_PATH", format!("{}:/usr/lib/cni", place.dir.join("plugins").display()))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .expect("timeout");
    let [text, errors] = files.map(|path| fs::read_to_string(path).expect("text"));
    assert!(status.success(), "{status}: {text}{errors}");
    Some(text)
}

/// How many rules of iptables concern the tests' addresses: masquerading.
const RULES: &str = "iptables -t nat -S | grep -c 10.203.0 || true";

/// Addresses that are given out: a file each.
fn leases(place: &Place, network: &str) -> usize {
    let files = fs::read_dir(place.dir.join("ipam").join(network)).into_iter().flatten().flatten();
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
         $nacre do --root $root --net cni -- busybox wget -qO- http://10.203.0.2/page; {RULES}; \
         kill $background; wait $background || true; \
         for i in $(seq 50); do ip -o link show type veth | grep -q . || break; sleep 0.1; done; ip -o link show type veth | wc -l; {RULES}"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let [pages @ .., rules, veths, left] = &lines[..] else { panic!("{text}") };
    assert_eq!((pages, *veths, *left), (&["here"; 3][..], "0", "0"), "{text}");
    assert_ne!(*rules, "0", "the test looks for what is there");
    assert_eq!(leases(&place, "tests"), 0, "addresses are given back");
}

/// The same over taps: there is no veth, what is published is reached, and no tap is left.
#[test]
fn our_plugin_puts_taps_in_the_place_of_veths() {
    let Some(place) = Place::new("cni-taps").busybox() else { return };
    let page = "echo here > /page; busybox httpd -p 80 -h /; sleep 1000";
    let script = format!(
        "$nacre do --root $root --net cni:tap -p 18080:80 -- sh -c '{page}' & background=$!; \
         for i in $(seq 100); do busybox wget -qO- http://10.203.0.2/page && break; sleep 0.1; done; \
         busybox wget -qO- http://10.203.0.1:18080/page; \
         $nacre do --root $root --net cni:tap -- busybox wget -qO- http://10.203.0.2/page; \
         ip -o link show type veth | wc -l; ip -d -o link show type tun | grep 'master nacretests' | grep -c 'hairpin on'; \
         kill $background; wait $background || true; \
         for i in $(seq 50); do ip -o link show type tun | grep -q . || break; sleep 0.1; done; ip -o link show type tun | wc -l; {RULES}"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    assert_eq!(text, "here\nhere\nhere\n0\n1\n0\n0\n");
    assert_eq!(leases(&place, "tap"), 0, "addresses are given back");
}

/// An engine's network stays as its plugin made it: CHECK agrees while a sandbox has it, DEL undoes all, and between sandboxes nothing is on the interface.
/// Only its queue's length, 0, is the kernel's default once it has had a discipline.
#[test]
fn a_sandbox_leaves_what_it_finds() {
    let Some(place) = Place::new("cni-check").busybox() else { return };
    let discipline = if in_vm() { "ingress" } else { "clsact" };
    let script = format!(
        "pod=nacre-check-$$; ip netns add $pod; trap 'exit 1' TERM; trap 'kill -9 $background 2>/dev/null || true; ip netns del $pod' EXIT; \
         plugin() {{ CNI_COMMAND=$1 CNI_CONTAINERID=c CNI_IFNAME=eth0 CNI_NETNS=/run/netns/$pod /usr/lib/cni/bridge; }}; \
         config=$(sed 's/.*\"plugins\":\\[\\({{.*}}\\),{{\"capab.*/\\1/; s/^{{/{{\"cniVersion\":\"0.4.0\",\"name\":\"tests\",/; s/}}$//' $NETCONFPATH/10-tests.conflist); \
         result=$(echo \"$config}}\" | plugin ADD); checked() {{ echo \"$config,\\\"prevResult\\\":$result}}\" | plugin $1 && echo $1; }}; \
         look() {{ ip netns exec $pod tc qdisc show dev eth0; ip -n $pod -4 addr show eth0 | sed 's/ qlen 1000//; s/  */ /g'; ip -n $pod route; }}; \
         before=$(look); checked CHECK; \
         $nacre do --root $root --net /run/netns/$pod -- sleep 1000 & background=$!; \
         for i in $(seq 100); do look | grep -q {discipline} && break; sleep 0.1; done; look | grep -ow {discipline}; checked CHECK; \
         $nacre do --root $root --net /run/netns/$pod -- true 2>&1 || true; \
         kill $background; wait $background || true; \
         after=$(look); if test \"$before\" = \"$after\"; then echo restored; else echo \"$before\" is now \"$after\"; fi; checked CHECK; checked DEL; {RULES}"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let [a, b, c, taken, d, e, f, g] = &lines[..] else { panic!("{text}") };
    assert_eq!([*a, *b, *c, *d, *e, *f, *g], ["CHECK", discipline, "CHECK", "restored", "CHECK", "DEL", "0"], "{text}");
    assert!(taken.contains("another sandbox has "), "{text}");
}

/// The host's end has addresses and routes of its own.
#[test]
fn our_plugin_comes_after_ptp_too() {
    let Some(place) = Place::new("cni-ptp").busybox() else { return };
    let script = "echo there > $NETCONFPATH/page; ip addr add 10.204.0.1/32 dev lo; busybox httpd -f -p 10.204.0.1:8000 -h $NETCONFPATH & background=$!; \
         for i in $(seq 100); do busybox wget -qO /dev/null http://10.204.0.1:8000/page && break; sleep 0.1; done; \
         $nacre do --root $root --net cni:ptp -- sh -c 'busybox wget -qO- http://10.204.0.1:8000/page; ip -o link show eth0' | sed 's/ qdisc.*//'; \
         ip -o link show type tun | wc -l";
    let Some(text) = on_a_host(&place, script) else { return };
    assert!(text.starts_with("there\n") && text.contains("eth0") && text.ends_with("mtu 1500\n0\n"), "{text}");
    assert_eq!(leases(&place, "ptp"), 0, "addresses are given back");
}

/// Without the plugin before, or after something that is no veth, it says so and changes nothing.
#[test]
fn our_plugin_says_what_it_needs() {
    let Some(place) = Place::new("cni-alone").busybox() else { return };
    let config = r#"{"cniVersion":"1.0.0","name":"n","type":"nacre-cni""#;
    let script = format!(
        "plugin() {{ CNI_COMMAND=$1 CNI_CONTAINERID=c CNI_IFNAME=$2 CNI_NETNS=/proc/self/ns/net $CNI_PATH/nacre-cni; }}; \
         CNI_PATH=${{CNI_PATH%%:*}}; \
         echo '{config}}}' | plugin ADD eth0 || true; \
         echo '{config},\"prevResult\":{{}}}}' | plugin ADD eth0 || true; \
         echo '{config}}}' | plugin DEL eth0; echo '{config}}}' | plugin STATUS eth0; \
         echo '{config}}}' | plugin GC eth0 || true; \
         echo '{config}}}' | plugin VERSION eth0; echo nonsense | plugin ADD eth0 || true; \
         echo '{{\"cniVersion\":\"0.2.0\"}}' | plugin ADD eth0 || true"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let said = [
        "comes after bridge or ptp in a list",
        "the host's own network namespace",
        "no cni.dev/valid-attachments",
        "supportedVersions",
        "the configuration:",
        "is not one of 0.3.1",
    ];
    assert_eq!(lines.len(), said.len(), "{text}");
    for (line, said) in lines.iter().zip(said) {
        assert!(line.contains(said), "{said}: {text}");
    }
}

/// The network's name servers are the sandbox's, and the file goes with the network.
#[test]
fn name_servers_are_those_of_the_network() {
    let Some(place) = Place::new("cni-dns").busybox() else { return };
    let script = "$nacre do --root $root --net cni:dns -- cat /etc/resolv.conf; \
         $nacre do --root $root --net cni:tests -- sh -c 'test -s /etc/resolv.conf || echo none'; ls $state/~networks | wc -l";
    let Some(text) = on_a_host(&place, script) else { return };
    let servers = "search tests.example\nnameserver 10.203.0.53\nnameserver fd00::53\noptions ndots:2\n";
    assert_eq!(text, format!("{servers}none\n0\n"));
}

#[test]
fn nothing_is_left_of_a_network_that_a_plugin_refuses() {
    let Some(place) = Place::new("cni-refused").busybox() else { return };
    let script = format!(
        "$nacre do --root $root --net cni:refused -- true 2>&1 || true; \
         ip -o link show type veth | wc -l; {RULES}; ls $state/~networks | wc -l"
    );
    let Some(text) = on_a_host(&place, &script) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let [said @ .., veths, rules, left] = &lines[..] else { panic!("{text}") };
    assert!(said.iter().any(|line| line.contains("the CNI plugin refuses (ADD): not here")), "{text}");
    assert_eq!((*veths, *rules, *left, leases(&place, "refused")), ("0", "0", "0", 0));
}

#[test]
fn what_a_killed_process_had_is_given_back() {
    let Some(place) = Place::new("cni-killed").busybox() else { return };
    let script = "$nacre do --root $root --net cni -- sleep 1000 & background=$!; \
         for i in $(seq 100); do ip -o link show type veth | grep -q . && break; sleep 0.1; done; sleep 0.3; \
         kill -9 $background; wait $background || true; \
         $nacre do --root $root --net cni -- true";
    let Some(_) = on_a_host(&place, script) else { return };
    assert_eq!(leases(&place, "tests"), 0, "the next one has given back what it had");
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
