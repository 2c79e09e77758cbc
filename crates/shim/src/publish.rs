//! [`Publisher`]: events on their way to containerd, in order.
//!
//! A thread of its own sends them: nobody waits for containerd, which may be starting again. Then an event is tried again for some seconds and
//! given up, as other shims do: a containerd that starts asks for the state of everything.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender as Done, SyncSender, channel, sync_channel};
use std::time::Duration;

use agent_api::frame::{self, HEADER, Header, Kind, RequestBody, ResponseBody};
use prost::Message;

use crate::proto::{Any, Envelope, ForwardRequest, Timestamp};

/// Events that may wait.
const QUEUE: usize = 4096;
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the shim waits for events that are on their way.
const FLUSH: Duration = Duration::from_secs(2);

/// What waits in the queue.
enum Item {
    Event(Envelope),
    /// All before it have been sent, or given up.
    Mark(Done<()>),
}

/// Where events are put.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: SyncSender<Item>,
    namespace: String,
}

impl Publisher {
    /// Events go to containerd's socket `address`; nowhere if there is none.
    pub fn start(address: Option<String>, namespace: &str) -> std::io::Result<Publisher> {
        let (queue, events) = sync_channel(QUEUE);
        let sender = std::thread::Builder::new().name("events".into()).stack_size(64 << 10);
        sender.spawn(move || match address {
            Some(address) => Sender { address, connection: None, stream: 1 }.run(&events),
            // Who waits for a mark is let go.
            None => events.iter().for_each(drop),
        })?;
        Ok(Publisher { queue, namespace: namespace.into() })
    }

    /// Puts an event in the queue; one that finds it full is lost.
    pub fn put<M: Message>(&self, topic: &str, name: &str, event: &M) {
        let event = Any { type_url: format!("containerd.events.{name}"), value: event.encode_to_vec() };
        let envelope = Envelope {
            timestamp: Some(Timestamp::now()),
            namespace: self.namespace.clone(),
            topic: format!("/tasks/{topic}"),
            event: Some(event),
        };
        if self.queue.try_send(Item::Event(envelope)).is_err() {
            tracing::warn!("containerd takes no events: {topic} is lost");
        }
    }

    /// Waits a while until all events that have been put are sent.
    pub fn flush(&self) {
        let (done, sent) = channel();
        if self.queue.try_send(Item::Mark(done)).is_ok() {
            let _ = sent.recv_timeout(FLUSH);
        }
    }
}

struct Sender {
    address: String,
    connection: Option<UnixStream>,
    stream: u32,
}

impl Sender {
    fn run(mut self, events: &Receiver<Item>) {
        for item in events.iter() {
            let event = match item {
                Item::Event(event) => event,
                Item::Mark(done) => {
                    let _ = done.send(());
                    continue;
                }
            };
            let topic = event.topic.clone();
            let body = RequestBody {
                service: "containerd.services.events.ttrpc.v1.Events".into(),
                method: "Forward".into(),
                payload: ForwardRequest { envelope: Some(event) }.encode_to_vec(),
                timeout_nano: PATIENCE.as_nanos() as i64,
            };
            let mut last = None;
            let mut stale = false;
            for attempt in 0..TRIES {
                // A connection that was kept may be an earlier containerd's: a new one is tried at once.
                if attempt > 0 && !stale {
                    std::thread::sleep(PAUSE);
                }
                stale = self.connection.is_some();
                last = self.send(&body).err();
                if last.is_none() {
                    break;
                }
                self.connection = None;
            }
            if let Some(error) = last {
                tracing::warn!("containerd has not taken the event {topic}: {error}");
            }
        }
    }

    fn send(&mut self, body: &RequestBody) -> std::io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = UnixStream::connect(self.address.strip_prefix("unix://").unwrap_or(&self.address))?;
                connection.set_read_timeout(Some(PATIENCE))?;
                connection.set_write_timeout(Some(PATIENCE))?;
                connection
            }
        };
        connection.write_all(&frame::encode(self.stream, Kind::Request, body))?;
        self.stream = self.stream.wrapping_add(2);
        let mut header = [0; HEADER];
        connection.read_exact(&mut header)?;
        let header = Header::parse(header).map_err(std::io::Error::other)?;
        let mut payload = vec![0; header.len];
        connection.read_exact(&mut payload)?;
        self.connection = Some(connection);
        match ResponseBody::decode(payload.as_slice()).map_err(std::io::Error::other)?.status {
            // It was understood and refused: trying again changes nothing.
            Some(status) if status.code != 0 => {
                tracing::warn!("containerd refuses an event: {}", status.message);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
