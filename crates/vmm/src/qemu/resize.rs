//! CPUs and memory that come and go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::RESIZABLE;
use super::driver::{Qemu, malformed};
use crate::{Error, Result};

/// By what QEMU's virtio-mem can be sized: a huge page.
const BLOCK: u64 = 2 << 20;

impl Qemu {
    pub(super) fn set_cpus(&self, count: u32, timeout: Duration) -> Result<u32> {
        let deadline = Instant::now() + timeout;
        let cpus = self.command("query-hotpluggable-cpus", json!({}))?;
        let mut cpus = cpus.as_array().ok_or_else(|| malformed("query-hotpluggable-cpus", &cpus))?.clone();
        let max = cpus.len() as u64;
        if count == 0 || u64::from(count) > max {
            return Err(Error::Limit { what: "number of CPUs", asked: count.into(), low: 1, high: max });
        }
        // QEMU lists the last first.
        cpus.reverse();
        let (present, absent): (Vec<Value>, Vec<Value>) = cpus.into_iter().partition(|cpu| cpu.get("qom-path").is_some());
        let mut now = present.len() as u32;
        for cpu in absent {
            if now >= count {
                break;
            }
            let mut front = cpu["props"].clone();
            let fields = front.as_object_mut().ok_or_else(|| malformed("query-hotpluggable-cpus", &cpu))?;
            let number: Vec<String> = fields.values().map(Value::to_string).collect();
            fields.insert("id".into(), json!(format!("cpu-{}", number.join("-"))));
            fields.insert("driver".into(), cpu["type"].clone());
            self.command("device_add", front)?;
            now += 1;
        }
        for cpu in present.iter().rev() {
            // Those of the start have no name, and stay.
            let id = cpu.get("qom-path").and_then(Value::as_str).and_then(|path| path.strip_prefix("/machine/peripheral/"));
            let (Some(id), true) = (id, now > count) else { continue };
            let cursor = self.qmp.events_end();
            self.command("device_del", json!({"id": id}))?;
            match self.wait_deleted(id, cursor, deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => now -= 1,
                Err(Error::Timeout { .. } | Error::Refused { .. }) => break, // the guest keeps it
                Err(e) => return Err(e),
            }
        }
        Ok(now)
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
                let changed = |event: &super::qmp::QmpEvent| (event.name == "MEMORY_DEVICE_SIZE_CHANGE").then_some(());
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
