//! The device in a real guest: QEMU boots a machine that mounts it, and this program runs in there again, out of a tree that is the host's `/`.
//!
//! Three roles: the test itself, the confined server (`FS_ROLE=server`), and the guest half (`FS_ROLE=guest`).

mod guest;
mod machine;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use machine::Machine;

/// Emulation is slow, and other tests may run.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match std::env::var("FS_ROLE").as_deref() {
        Ok("server") => server::main(),
        Ok("guest") => guest::main(),
        _ => {
            if std::env::args().any(|arg| arg == "--list") {
                return ExitCode::SUCCESS;
            }
            let parts = match machine::parts() {
                Ok(parts) => parts,
                Err(missing) => {
                    eprintln!("SKIPPED: the virtio-fs device was not tried in a machine: {missing}");
                    return ExitCode::SUCCESS;
                }
            };
            test(&parts);
            println!("test a guest uses the device ... ok");
        }
    }
    ExitCode::SUCCESS
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn test(parts: &machine::Parts) {
    let folder = Folder(std::env::temp_dir().join(format!("nacre-virtiofs-{}", std::process::id())));
    let (share, file, late) = (folder.0.join("share"), folder.0.join("file"), folder.0.join("late"));
    fs::create_dir_all(&share).unwrap();
    fs::create_dir_all(&late).unwrap();
    fs::write(late.join("file"), "late").unwrap();
    fs::write(&file, "a single file\n").unwrap();
    guest::prepare(&share);
    let socket = folder.0.join("socket");
    let server = server::start(&socket, &share, &file);
    let script = format!(
        "mount -t virtiofs nacre /mnt || echo FAIL mount\n\
         ls /mnt | tr '\\n' ' '; echo\n\
         mount --bind /mnt/1 /mnt/0/mnt; mount --bind /proc /mnt/0/proc; mount --bind /mnt /mnt/0/srv; mount --bind /mnt/2 /mnt/0/etc/motd\n\
         FS_ROLE=guest chroot /mnt/0 {} 2>&1\n",
        std::env::current_exe().unwrap().display()
    );
    let mut machine = Machine::boot(parts, &folder.0, &socket, &script);
    let (mut lines, mut done) = (Vec::new(), false);
    machine.watch(LIMIT, |line| {
        if std::env::var_os("FS_VERBOSE").is_some() {
            println!("| {line}");
        }
        match line {
            guest::WANT_TREE => server.order(Some(&late)),
            guest::WANT_NO_TREE => server.order(None),
            guest::TREE_IS_GONE => assert!(!server.holds(&late), "the server still holds the tree"),
            guest::WANT_CHANGE => {
                assert!(server.holds(&late));
                fs::write(late.join("file"), "changed by the host").unwrap();
            }
            _ => {}
        }
        done |= line == "ALL DONE";
        lines.push(line.to_owned());
    });
    drop(machine);
    assert!(done, "the guest half failed:\n{}", lines.join("\n"));
    server.end();
    guest::check_on_host(Path::new(&share));
}
