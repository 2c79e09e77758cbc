//! [`Events`]: what happened in the sandbox, for long polls.

use std::collections::VecDeque;

use agent_api::{Event, NextEventsResponse};
use parking_lot::Mutex;

use super::wait_forever;
use crate::wait::{PollEvents, WaitQueue};

/// Events kept for late readers.
const KEPT: usize = 1024;

/// The last events, numbered from 1.
#[derive(Default)]
pub struct Events {
    kept: Mutex<(u64, VecDeque<Event>)>,
    added: WaitQueue,
}

impl Events {
    /// Numbers and adds an event.
    pub fn add(&self, event: Event) {
        let mut kept = self.kept.lock();
        kept.0 += 1;
        let sequence = kept.0;
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(Event { sequence, ..event });
        drop(kept);
        self.added.wake(PollEvents::IN);
    }

    /// Waits until a container's own process has ended; its exit status, as a shell says it.
    pub async fn exit_of(&self, container_id: &str) -> u8 {
        let mut after = 0;
        loop {
            for event in self.after(after).await.events {
                after = after.max(event.sequence);
                if let Some(exit) = event.exit
                    && event.container_id == container_id
                    && event.exec_id.is_empty()
                {
                    return exit.shell_status();
                }
            }
        }
    }

    /// Those after number `after`; waits for one.
    pub async fn after(&self, after: u64) -> NextEventsResponse {
        wait_forever(&self.added, || {
            let kept = self.kept.lock();
            let events: Vec<Event> = kept.1.iter().filter(|event| event.sequence > after).cloned().collect();
            (!events.is_empty()).then_some(NextEventsResponse { events })
        })
        .await
    }
}
