//! The agent in a real machine: QEMU boots the guest image, and this program is its host.
//!
//! It needs the static agent (`cargo xtask agent`), QEMU, a kernel and busybox, and says so where they are missing.

mod checks;
mod machine;

use std::path::Path;
use std::process::ExitCode;

use machine::Machine;

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    let agent = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("agent").join("nacre-agent");
    for (path, cure) in [
        (agent.as_path(), "run `cargo xtask agent`"),
        (Path::new("/usr/bin/qemu-system-x86_64"), "install qemu-system-x86"),
        (Path::new("/bin/busybox"), "install busybox-static"),
    ] {
        if !path.exists() {
            eprintln!("SKIPPED: the agent was not tried in a machine: no {}: {cure}", path.display());
            return ExitCode::SUCCESS;
        }
    }
    let options = guest::Options { agent: Some(agent), ..guest::Options::default() };
    let image = match guest::build(&options, &mut |_| ()) {
        Ok(image) => image,
        Err(error) => {
            eprintln!("SKIPPED: the agent was not tried in a machine: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let machine = Machine::boot(&image);
    for (name, check) in checks::ALL {
        check(&machine);
        println!("test {name} ... ok");
    }
    // A host that vanishes: the machine must not stay.
    machine.leave();
    println!("test a machine without its host turns itself off ... ok");
    ExitCode::SUCCESS
}
