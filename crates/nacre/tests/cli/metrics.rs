//! `nacre metrics` and `nacre top`: what is told of sandboxes that run, hang and have died.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Place, in_vm};

/// The value of the sample with this family and these parts of its labels.
fn value(text: &str, family: &str, parts: &[&str]) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') && parts.iter().all(|part| rest.contains(part)))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn once(place: &Place) -> String {
    place.nacre(&["metrics", "--once", "--no-shims"]).ok().stdout
}

/// A running container that belongs to a pod, and reads a file now and then.
fn start(name: &str) -> Option<Place> {
    let place = Place::new(name).busybox()?;
    let mut config = Place::config(&["sh", "-c", "while :; do grep -c zzzz /bin/busybox; sleep 0.1; done"]);
    config["annotations"] = json!({"io.kubernetes.cri.sandbox-name": "web-1", "io.kubernetes.cri.sandbox-namespace": "shop"});
    place.write(&config);
    place.detached(&["run", "-d", &place.id()]).ok();
    Some(place)
}

#[test]
fn a_running_sandbox_tells_what_it_counts() {
    let Some(place) = start("metrics") else { return };
    let id = place.id();
    let own = format!("sandbox=\"{id}\"");
    let own = own.as_str();
    let of_pod = [own, "pod=\"web-1\"", "pod_namespace=\"shop\""];
    let first = once(&place);
    assert_eq!(value(&first, "nacre_sandbox_up", &of_pod), Some(1.0), "{first}");
    assert_eq!(value(&first, "nacre_container_status", &[own, "status=\"running\""]), Some(1.0), "{first}");
    assert!(value(&first, "nacre_container_memory_bytes", &[own]).is_some_and(|bytes| bytes > 0.0), "{first}");
    if !in_vm() {
        let counters: [(&str, &[&str]); 7] = [
            ("nacre_container_syscalls_total", &[own, "call=\"read\""]),
            ("nacre_container_faults_total", &[own]),
            ("nacre_container_io_bytes_total", &[own, "direction=\"read\""]),
            ("nacre_sentry_host_calls_total", &[own, "call=\"futex\""]),
            ("nacre_sentry_stub_orders_total", &[own, "call=\"mmap\""]),
            ("nacre_sentry_executor_sleep_seconds_total", &[own, "executor=\"0\""]),
            ("nacre_gofer_requests_total", &[own, "request=\"Walk\""]),
        ];
        // All but the gofer's (which caches) go on.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = once(&place);
            let grown = |(family, parts): &(&str, &[&str])| {
                let (before, after) = (value(&first, family, parts), value(&text, family, parts));
                after.is_some_and(|after| after > before.unwrap_or(0.0)) || (family.contains("gofer") && after.is_some())
            };
            let stuck: Vec<_> = counters.iter().filter(|counter| !grown(counter)).collect();
            if stuck.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{stuck:?} do not grow: {text}");
        }
    }
    let table = place.nacre(&["top", "--once", "--no-shims", "--interval", "200ms"]).ok().stdout;
    let row = table.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("no row: {table}"));
    assert!(row.contains("web-1") && row.contains("running"), "{table}");
    place.nacre(&["delete", "--force", &id]).ok();
    assert_eq!(once(&place).trim(), "");
    place.assert_clean();
}

#[test]
fn one_that_hangs_or_is_dead_is_down_and_keeps_nobody_waiting() {
    let (Some(hung), Some(dead)) = (start("metrics-hung"), start("metrics-dead")) else { return };
    let pid = |place: &Place| {
        let state = place.nacre(&["state", &place.id()]).ok().stdout;
        let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
        rustix::process::Pid::from_raw(state["pid"].as_i64().expect("a pid") as i32).expect("a pid")
    };
    rustix::process::kill_process(pid(&hung), rustix::process::Signal::STOP).expect("stops");
    let start = Instant::now();
    let text = once(&hung);
    // Less than any call's own patience.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert_eq!(value(&text, "nacre_sandbox_up", &[&hung.id()]), Some(0.0), "{text}");
    rustix::process::kill_process(pid(&dead), rustix::process::Signal::KILL).expect("dies");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = once(&dead);
        if value(&text, "nacre_container_status", &[&dead.id(), "status=\"stopped\""]) == Some(1.0) {
            assert_eq!(value(&text, "nacre_sandbox_up", &[&dead.id()]), Some(0.0), "{text}");
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    for place in [&hung, &dead] {
        place.nacre(&["delete", "--force", &place.id()]).ok();
        place.assert_clean();
    }
}

#[test]
fn they_are_served_over_http() {
    let place = Place::new("metrics-http");
    let mut server = place.command(&["metrics", "--no-shims", "--address", "127.0.0.1:0"]);
    let mut server = server.stdout(Stdio::piped()).spawn().expect("nacre runs");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.trim().rsplit('/').next().unwrap_or_default().to_string();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).expect("connects");
        stream.write_all(request.as_bytes()).expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let good = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let bad = ask("nonsense\r\n\r\n");
    server.kill().expect("ends");
    server.wait().expect("ended");
    assert!(good.starts_with("HTTP/1.1 200 OK\r\n") && good.contains("version=0.0.4"), "{good}");
    assert!(bad.starts_with("HTTP/1.1 400 "), "{bad}");
}

/// Names of families in a text: `nacre_` and at least one more part, between characters that are of no name.
fn families(text: &str, opened_by: char) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let pieces = text.split(opened_by).map(|piece| piece.split(|c| !is_name(c)).next().unwrap_or_default());
    pieces.filter(|name| name.starts_with("nacre_") && !name.ends_with('_')).map(String::from).collect()
}

/// docs/metrics.md names all families there are, and no others.
#[test]
fn the_page_is_complete() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the repository").to_path_buf();
    let page = std::fs::read_to_string(top.join("docs/metrics.md")).expect("the page");
    let mut made = BTreeSet::new();
    for file in [
        "agent-api/src/metrics.rs",
        "agent/src/metrics.rs",
        "keeper/src/size.rs",
        "keeper/src/lib.rs",
        "nacre/src/gather.rs",
        "sentry/src/container/metrics.rs",
    ] {
        let text = std::fs::read_to_string(top.join("crates").join(file)).expect(file);
        // Tests make families of their own.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let constructors =
            text.split("Metric::").skip(1).filter(|rest| rest.starts_with("gauge(") || rest.starts_with("counter("));
        for rest in constructors {
            made.extend(families(rest.split(')').next().unwrap_or_default(), '"').into_iter().take(1));
        }
    }
    let told = families(&page, '`');
    let difference = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    assert!(made.len() > 30, "{made:?}");
    assert_eq!(difference(&made, &told), Vec::<String>::new(), "not in docs/metrics.md");
    assert_eq!(difference(&told, &made), Vec::<String>::new(), "in docs/metrics.md, and made nowhere");
}
