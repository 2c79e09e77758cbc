//! `linux.resources`: what a sandbox does not do of it, by name.
//!
//! Engines fill in much that means nothing (zeros, -1, a swap limit that is the memory's), so that is asked for by nobody. The rest is logged when a container is
//! made, as its other settings without effect are, and refused when it is to be changed to it.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxResources;
use serde_json::Value;

/// What is done (`limits`, `cgroup::limits`); devices are the sandbox's own.
const DONE: &[&str] = &[
    "devices",
    "memory.limit",
    "memory.checkBeforeUpdate",
    "pids.limit",
    "cpu.shares",
    "cpu.quota",
    "cpu.period",
    "cpu.cpus",
    "cpu.mems",
];

/// What is asked for and has no effect: keys below `linux.resources`, and their values.
pub fn without_effect(resources: &LinuxResources) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let Ok(Value::Object(all)) = serde_json::to_value(resources) else { return found };
    for (group, value) in all {
        match value {
            Value::Object(keys) => {
                found.extend(keys.into_iter().map(|(key, value)| (format!("{group}.{key}"), value)));
            }
            value => _ = found.insert(group, value),
        }
    }
    let memory = resources.memory().as_ref().and_then(|memory| memory.limit());
    found.retain(|key, value| {
        // Memory and swap together: a sandbox's memory is its whole use, which does not go beyond its limit.
        let kept =
            key == "memory.swap" && value.as_i64().is_some_and(|swap| memory.is_some_and(|limit| limit > 0 && swap >= limit));
        !(DONE.contains(&key.as_str()) || kept || is_nothing(value))
    });
    found
}

/// Asks for nothing, whatever the key is.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => matches!(number.as_i64(), Some(0 | -1)),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(is_nothing),
        // No huge pages of a size is what there is.
        Value::Object(keys) => keys.iter().all(|(key, value)| key == "pageSize" || is_nothing(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(text).expect("resources");
        without_effect(&resources).into_keys().collect()
    }

    #[test]
    fn what_engines_fill_in_is_nothing() {
        let kubelet = r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":1000,"swap":1000,"reservation":0,"swappiness":0},
            "cpu":{"quota":5,"period":10,"shares":2,"cpus":"0","mems":"","idle":0},"pids":{"limit":3},
            "hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":0}],"blockIO":{"weight":0},"unified":{}}"#;
        assert_eq!(keys(kubelet), [""; 0]);
        assert_eq!(keys(r#"{"memory":{"swap":-1,"disableOOMKiller":false}}"#), [""; 0]);
    }

    #[test]
    fn what_would_have_to_be_done_is_named() {
        for (text, key) in [
            (r#"{"memory":{"limit":1000,"swap":900}}"#, "memory.swap"),
            (r#"{"memory":{"swap":900}}"#, "memory.swap"),
            (r#"{"memory":{"reservation":500}}"#, "memory.reservation"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
            (r#"{"cpu":{"realtimeRuntime":500}}"#, "cpu.realtimeRuntime"),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#, "hugepageLimits"),
            (r#"{"blockIO":{"weight":10}}"#, "blockIO.weight"),
            (r#"{"unified":{"memory.high":"1000"}}"#, "unified.memory.high"),
        ] {
            assert_eq!(keys(text), [key], "{text}");
        }
    }
}
