//! [`Events`]: what happened in the sandbox, for long polls.

use std::collections::VecDeque;

use agent_api::{Event, NextEventsResponse};
use parking_lot::Mutex;

/// Events kept for late readers.
const KEPT: usize = 1024;

/// The last events, numbered from 1, and who waits for more.
#[derive(Default)]
pub struct Events {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    kept: VecDeque<Event>,
    /// Requests to be answered with what comes after a number.
    waiters: Vec<(u32, u64)>,
}

impl Events {
    /// Numbers and adds an event. Returns the answers that it makes due, by request.
    pub fn add(&self, event: Event) -> Vec<(u32, NextEventsResponse)> {
        let mut state = self.state.lock();
        state.last += 1;
        let sequence = state.last;
        if state.kept.len() == KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back(Event { sequence, ..event });
        let waiters = std::mem::take(&mut state.waiters);
        let mut due = Vec::new();
        for (request, after) in waiters {
            match state.after(after) {
                Some(answer) => due.push((request, answer)),
                None => state.waiters.push((request, after)),
            }
        }
        due
    }

    /// The answer to a request for those after a number; kept for [`add`](Events::add) if there are none yet.
    pub fn wait(&self, request: u32, after: u64) -> Option<NextEventsResponse> {
        let mut state = self.state.lock();
        let answer = state.after(after);
        if answer.is_none() {
            state.waiters.push((request, after));
        }
        answer
    }
}

impl State {
    fn after(&self, after: u64) -> Option<NextEventsResponse> {
        let events: Vec<Event> = self.kept.iter().filter(|event| event.sequence > after).cloned().collect();
        (!events.is_empty()).then_some(NextEventsResponse { events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_waits_for_what_it_has_not_seen() {
        let events = Events::default();
        assert_eq!(events.wait(1, 0), None);
        let due = events.add(Event { container_id: "a".into(), ..Event::default() });
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].0, due[0].1.events[0].sequence), (1, 1));
        assert!(events.wait(2, 1).is_none());
        assert_eq!(events.wait(3, 0).map(|answer| answer.events.len()), Some(1));
        assert!(events.add(Event::default()).iter().all(|(request, _)| *request == 2));
    }

    #[test]
    fn old_events_make_room() {
        let events = Events::default();
        for _ in 0..KEPT + 5 {
            events.add(Event::default());
        }
        let all = events.wait(1, 0).expect("events").events;
        assert_eq!((all.len(), all[0].sequence), (KEPT, 6));
    }
}
