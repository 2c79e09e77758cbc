//! The processes of a container by their exec ids: which of those that have ended an agent still knows.

use std::collections::BTreeMap;

/// Ended processes of execs whose statuses are kept for late questions.
const KEPT: usize = 64;

/// Forgets the process that had this exec id, and those that ended longest ago; false if the id's process has not ended. The container's own
/// process, which has the empty id, stays. `exited_at_ns` says when a process ended, if it has.
pub fn make_room<P>(processes: &mut BTreeMap<String, P>, exec_id: &str, exited_at_ns: impl Fn(&P) -> Option<u64>) -> bool {
    if processes.get(exec_id).is_some_and(|process| exited_at_ns(process).is_none()) {
        return false;
    }
    processes.remove(exec_id);
    let ended = processes.iter().filter(|(id, _)| !id.is_empty());
    let mut ended: Vec<(u64, String)> = ended.filter_map(|(id, process)| Some((exited_at_ns(process)?, id.clone()))).collect();
    ended.sort_unstable();
    let surplus = ended.len().saturating_sub(KEPT);
    for (_, id) in ended.into_iter().take(surplus) {
        processes.remove(&id);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_free_again_and_old_ends_are_forgotten() {
        let mut processes = BTreeMap::from([(String::new(), Some(0)), ("runs".into(), None), ("ended".into(), Some(5))]);
        assert!(!make_room(&mut processes, "runs", |at| *at), "it has not ended");
        assert!(make_room(&mut processes, "ended", |at| *at) && !processes.contains_key("ended"));
        for at in 0..100u64 {
            assert!(make_room(&mut processes, "next", |at| *at));
            processes.insert(format!("probe-{at}"), Some(at + 10));
        }
        assert!(make_room(&mut processes, "next", |at| *at));
        assert_eq!(processes.len(), KEPT + 2, "the container's own and the one that runs stay");
        assert!(!processes.contains_key("probe-35") && processes.contains_key("probe-36"), "the oldest go first");
    }
}
