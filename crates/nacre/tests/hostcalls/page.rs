//! docs/host-calls.md: the lists as a page, which must be what the code says.

use std::fmt::Write;
use std::path::PathBuf;

use hostcall::seccomp::{AllowList, Call};
use platform::systrap::{MEMORY_CALLS, StubCall, THREAD_CALLS};

pub fn check(lists: &[(&str, AllowList)], failures: &mut Vec<String>) {
    let page = render(lists);
    print!("{page}");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/host-calls.md");
    if std::env::var_os("NACRE_UPDATE").is_some() {
        std::fs::write(&path, &page).expect("docs/host-calls.md");
    } else if std::fs::read_to_string(&path).unwrap_or_default() != page {
        failures.push(
            "docs/host-calls.md is not what the lists say; look at the change, then run `cargo xtask hostcalls --update`"
                .into(),
        );
    }
}

fn render(lists: &[(&str, AllowList)]) -> String {
    let mut page = String::from(
        "# Host calls\n\nWhat each confined process may ask of the host kernel; whatever else it tries ends it. Made by `cargo xtask hostcalls --update` from the\n\
         lists that are the filters (`crates/hostcall/src/seccomp`, `crates/platform/src/systrap/filter.rs`); the same test tries every other\n\
         call, x32 numbers, `int 0x80`, vsyscalls and argument values under each filter, and reads the filters of a running sandbox back.\n",
    );
    let shown =
        |at: usize, call: &Call| lists.iter().take(at).any(|(_, list)| list.calls.iter().any(|known| same(known, call)));
    for (at, (name, list)) in lists.iter().enumerate() {
        let _ = writeln!(page, "\n## {}: {}\n", capital(name), list.calls.len());
        let variant = name.contains("--net");
        if variant {
            page += "The sentry's, and:\n\n";
        }
        page += "| call | only with | for |\n|---|---|---|\n";
        for call in list.calls.iter().filter(|call| !variant || !shown(at, call)) {
            let _ = writeln!(page, "| {} | {} | {} |", call.name, ways(call), call.why);
        }
    }
    stub(&mut page, "Stub, application thread", &THREAD_CALLS);
    stub(&mut page, "Stub, memory thread (and zygote)", &MEMORY_CALLS);
    page
}

fn stub(page: &mut String, name: &str, calls: &[StubCall]) {
    let _ = writeln!(
        page,
        "\n## {name}: {}\n\nFrom the blob's addresses only.\n\n| call | only with | for |\n|---|---|---|",
        calls.len()
    );
    for call in calls {
        let only = call.only.map_or(String::new(), |(index, values)| {
            let values: Vec<String> = values.iter().map(|value| format!("{value:#x}")).collect();
            format!("arg{index} = {}", values.join(" or "))
        });
        let _ = writeln!(page, "| {} | {only} | {} |", call.name, call.why);
    }
}

fn same(one: &Call, other: &Call) -> bool {
    (one.number, ways(one)) == (other.number, ways(other))
}

fn ways(call: &Call) -> String {
    let way = |way: &Vec<_>| way.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ");
    call.ways.iter().map(way).collect::<Vec<_>>().join("; or ")
}

fn capital(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}
