//! What QEMU says on its control socket: the driver comes to the end of it.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use vmm::Vmm;
use vmm::qemu::Qemu;

/// It says all at once and then nothing, so nobody waits for long.
const SOON: Duration = Duration::from_secs(5);
/// So that most inputs come further.
const BEGIN: &[u8] = b"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n";

fuzz_target!(|bytes: &[u8]| {
    let (flags, said) = bytes.split_first().unwrap_or((&0, &[]));
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("non-blocking");
    let begin = if flags & 1 == 1 { BEGIN } else { &[] };
    let _ = ours.write(&[begin, said].concat());
    ours.shutdown(Shutdown::Write).expect("shutdown");
    let Ok(qemu) = Qemu::attach(theirs, SOON) else { return };
    let _ = qemu.status();
    let mut events = 0;
    while let Some(event) = qemu.next_event(SOON) {
        if event == vmm::Event::Ended {
            break;
        }
        events += 1;
    }
    assert!(events <= said.len());
    let _ = qemu.resize_cpus(2, SOON);
    let _ = qemu.resize_memory(1 << 30, SOON);
    let _ = qemu.remove_device("disk", SOON);
});
