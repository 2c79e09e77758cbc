//! inotify in a volume: what the host changes is told to guests, once and with nothing old to be seen afterwards; what guests change, too.
//!
//! The guest's half is this program itself, run by `do` with [`DIR`] set.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::support::Place;

/// The volume, for the guest's half.
const DIR: &str = "NACRE_TEST_WATCHED";

// The guest's half.

/// Prints a line for each event, and what it then sees.
#[test]
fn watching_guest() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let fd = inotify::init(CreateFlags::empty()).expect("inotify");
    let changes = WatchFlags::ALL_EVENTS - WatchFlags::OPEN - WatchFlags::ACCESS - WatchFlags::CLOSE_NOWRITE;
    let add = |path: &Path| inotify::add_watch(&fd, path, changes).expect("watch");
    let watches = [(add(&dir), "dir"), (add(&dir.join("key")), "key"), (add(&dir.join("..1")), "..1")];
    let writable = fs::write(dir.join("own"), "mine").is_ok();
    if writable {
        fs::create_dir(dir.join("made")).expect("mkdir");
        fs::rename(dir.join("own"), dir.join("made/own")).expect("rename");
        fs::remove_dir_all(dir.join("made")).expect("remove");
    }
    // Known not to be there.
    assert!(fs::metadata(dir.join("later")).is_err());
    println!("guest: ready");
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&fd, &mut space);
    loop {
        let event = reader.next().expect("an event");
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let watch = watches.iter().find(|(id, _)| *id == event.wd()).map_or("?", |(_, watch)| watch);
        let kinds: Vec<&str> = event.events().iter_names().map(|(kind, _)| kind).collect();
        println!("guest: {watch} {} {name}", kinds.join("|"));
        match name.as_str() {
            "later" if event.events() == ReadFlags::CLOSE_WRITE => {
                let text = fs::read_to_string(dir.join(&name)).expect("it is there");
                let listed = fs::read_dir(&dir).expect("list").filter_map(Result::ok).any(|entry| entry.file_name() == "later");
                println!("guest: sees {text} {} {listed}", fs::metadata(dir.join(&name)).expect("stat").len());
            }
            "..data" => println!("guest: sees {}", fs::read_to_string(dir.join("key")).expect("key")),
            "stop" => return,
            _ => {}
        }
    }
}

// The host's half.

struct Guest {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Guest {
    fn start(place: &Place, volume: &str) -> Guest {
        let own = std::env::current_exe().expect("this program");
        let test = ["--exact", "watch::watching_guest", "--nocapture", "--test-threads=1"];
        let setting = format!("{DIR}=/mnt");
        let mut command = place.command(&["do", "-v", volume, "--env", &setting, "--"]);
        let mut child = command.arg(own).args(test).stdout(Stdio::piped()).spawn().expect("nacre runs");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Guest { child, lines }
    }

    /// What the guest says next.
    fn says(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the guest ended").expect("read");
            if let Some((_, said)) = line.split_once("guest: ") {
                return said.trim_end().to_string();
            }
        }
    }

    fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.says(), *line);
        }
    }

    /// Lines of which those of one watch are in order.
    fn expect_mixed(&mut self, lines: &[&str]) {
        let said: Vec<String> = lines.iter().map(|_| self.says()).collect();
        for watch in ["dir", "key", "..1", "sees"] {
            let of = |line: &&str| line.starts_with(watch);
            let (said, wanted): (Vec<&str>, Vec<&str>) =
                (said.iter().map(String::as_str).filter(of).collect(), lines.iter().copied().filter(of).collect());
            assert_eq!(said, wanted);
        }
    }
}

/// As the kubelet writes a ConfigMap: files in a directory of the version, a link to it that is replaced at once.
fn write_version(dir: &Path, version: u32, text: &str) {
    let made = dir.join(format!("..{version}"));
    fs::create_dir(&made).expect("mkdir");
    fs::write(made.join("key"), text).expect("key");
    symlink(format!("..{version}"), dir.join("..data_tmp")).expect("link");
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swap");
}

fn host_changes_are_told(options: &str) {
    let place = Place::new(&format!("watch{}", options.replace(':', "-")));
    let dir = place.dir.join("volume");
    fs::create_dir(&dir).expect("volume");
    write_version(&dir, 1, "one");
    symlink("..data/key", dir.join("key")).expect("link");
    let mut guest = Guest::start(&place, &format!("{}:/mnt{options}", dir.display()));
    if options.is_empty() {
        guest.expect(&["ready", "dir CREATE own", "dir MODIFY own", "dir CLOSE_WRITE own", "dir CREATE|ISDIR made"]);
        guest.expect(&["dir MOVED_FROM own", "dir DELETE|ISDIR made"]);
    } else {
        guest.expect(&["ready"]);
    }
    fs::write(dir.join("later"), "late").expect("write");
    guest.expect(&["dir CREATE later", "dir MODIFY later", "dir CLOSE_WRITE later", "sees late 4 true"]);

    write_version(&dir, 2, "two");
    fs::remove_file(dir.join("..1/key")).expect("the old version");
    guest.expect_mixed(&[
        "dir CREATE|ISDIR ..2",
        "dir CREATE ..data_tmp",
        "dir MOVED_FROM ..data_tmp",
        "dir MOVED_TO ..data",
        "sees two",
        "..1 DELETE key",
        "key ATTRIB",
        "key DELETE_SELF",
        "key IGNORED",
    ]);
    fs::remove_dir(dir.join("..1")).expect("the old version");
    guest.expect(&["..1 DELETE_SELF", "..1 IGNORED", "dir DELETE|ISDIR ..1"]);
    fs::write(dir.join("stop"), "").expect("write");
    guest.expect(&["dir CREATE stop"]);
    assert!(guest.child.wait().expect("wait").success());
}

#[test]
fn in_a_volume() {
    host_changes_are_told("");
}

#[test]
fn in_a_read_only_volume() {
    host_changes_are_told(":ro");
}
