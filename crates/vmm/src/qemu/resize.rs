//! CPUs and memory that come and go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::driver::{Qemu, malformed};
use super::qmp::QmpEvent;
use super::{DRIVER, RESIZABLE};
use crate::error::Feature;
use crate::{Error, Features, Result, Vmm};

/// By what QEMU's virtio-mem can be sized: a huge page.
const BLOCK: u64 = 2 << 20;

impl Qemu {
    pub(super) fn set_cpus(&self, count: u32, timeout: Duration) -> Result<u32> {
        let deadline = Instant::now() + timeout;
        let cpus = self.cpus()?;
        let max = cpus.len() as u64;
        if count == 0 || u64::from(count) > max {
            return Err(Error::Limit { what: "number of CPUs", asked: count.into(), low: 1, high: max });
        }
        let (present, absent): (Vec<Value>, Vec<Value>) = cpus.into_iter().partition(is_present);
        let mut now = present.len() as u32;
        if count < now && !self.features().contains(Features::CPU_UNPLUG) {
            return Err(Error::Unsupported { driver: DRIVER, feature: Feature(Features::CPU_UNPLUG) });
        }
        for cpu in absent.iter().take(count.saturating_sub(now) as usize) {
            self.add_cpu(cpu)?;
            now += 1;
        }
        for cpu in present.iter().rev() {
            // Those of the start have no name, and stay.
            let Some(id) = cpu_name(cpu) else { break };
            if now <= count || !self.remove_cpu(id, deadline)? {
                break;
            }
            now -= 1;
        }
        Ok(now)
    }

    /// All CPUs there are or could be, the first first.
    fn cpus(&self) -> Result<Vec<Value>> {
        let cpus = self.command("query-hotpluggable-cpus", json!({}))?;
        let mut cpus = cpus.as_array().ok_or_else(|| malformed("query-hotpluggable-cpus", &cpus))?.clone();
        cpus.reverse();
        Ok(cpus)
    }

    fn add_cpu(&self, cpu: &Value) -> Result<()> {
        let bad = || malformed("query-hotpluggable-cpus", cpu);
        let mut front = cpu.get("props").and_then(Value::as_object).ok_or_else(bad)?.clone();
        let number = |key: &&str| front.get(*key).map(Value::to_string);
        let place: Vec<String> = ["socket-id", "die-id", "core-id", "thread-id"].iter().filter_map(number).collect();
        front.insert("id".into(), json!(format!("cpu-{}", place.join("-"))));
        front.insert("driver".into(), cpu.get("type").ok_or_else(bad)?.clone());
        self.command("device_add", Value::Object(front)).map(drop)
    }

    /// Whether the guest let it go. No event says so by the CPU's name: each that may be about it has us look.
    fn remove_cpu(&self, id: &str, deadline: Instant) -> Result<bool> {
        let mut cursor = self.qmp.events_end();
        self.command("device_del", json!({"id": id}))?;
        let news = |event: &QmpEvent| match event.name.as_str() {
            "DEVICE_DELETED" => Some(true),
            "ACPI_DEVICE_OST" => Some(may_still_go(event, id)),
            _ => None,
        };
        while let Some(hope) = self.qmp.event(&mut cursor, deadline, news)? {
            if !self.cpus()?.iter().any(|cpu| cpu_name(cpu) == Some(id)) {
                return Ok(true);
            }
            if !hope {
                return Ok(false);
            }
        }
        Ok(false)
    }

    pub(super) fn set_memory(&self, bytes: u64, timeout: Duration) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        let summary = self.command("query-memory-size-summary", json!({}))?;
        let base = summary
            .get("base-memory")
            .and_then(Value::as_u64)
            .ok_or_else(|| malformed("query-memory-size-summary", &summary))?;
        let (mut size, max) = self.resizable()?.unwrap_or((0, 0));
        let high = base.saturating_add(max);
        if bytes < base || bytes > high {
            return Err(Error::Limit { what: "memory", asked: bytes, low: base, high });
        }
        let wanted = (bytes - base) / BLOCK * BLOCK;
        if max > 0 {
            let mut cursor = self.qmp.events_end();
            let path = format!("/machine/peripheral/{RESIZABLE}");
            self.command("qom-set", json!({"path": path, "property": "requested-size", "value": wanted}))?;
            // Asked first: the size may be right already, and then no event comes.
            loop {
                size = self.resizable()?.map_or(0, |(size, _)| size);
                let changed = |event: &QmpEvent| (event.name == "MEMORY_DEVICE_SIZE_CHANGE").then_some(());
                if size == wanted || self.qmp.event(&mut cursor, deadline, changed)?.is_none() {
                    break;
                }
            }
        }
        Ok(base.saturating_add(size))
    }

    /// The virtio-mem device's size and its greatest, in bytes.
    fn resizable(&self) -> Result<Option<(u64, u64)>> {
        let devices = self.command("query-memory-devices", json!({}))?;
        let list = devices.as_array().ok_or_else(|| malformed("query-memory-devices", &devices))?;
        let Some(data) =
            list.iter().filter_map(|d| d.get("data")).find(|d| d.get("id").and_then(Value::as_str) == Some(RESIZABLE))
        else {
            return Ok(None);
        };
        let number = |key| data.get(key).and_then(Value::as_u64).ok_or_else(|| malformed("query-memory-devices", data));
        Ok(Some((number("size")?, number("max-size")?)))
    }
}

fn is_present(cpu: &Value) -> bool {
    cpu.get("qom-path").is_some()
}

/// The name of a CPU that was plugged in.
fn cpu_name(cpu: &Value) -> Option<&str> {
    cpu.get("qom-path")?.as_str()?.strip_prefix("/machine/peripheral/")
}

/// False if the guest's firmware interface says that it refused to let `id` go (ACPI 6.4, `_OST`, source event 3: 0 is done, 0x84 in progress).
fn may_still_go(event: &QmpEvent, id: &str) -> bool {
    let Some(info) = event.data.get("info") else { return true };
    let number = |key| info.get(key).and_then(Value::as_u64);
    let ours = info.get("device").and_then(Value::as_str) == Some(id) && number("source") == Some(3);
    !ours || matches!(number("status"), Some(0 | 0x84))
}
