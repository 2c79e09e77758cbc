//! What the gofer answers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hostcall::Errno;

use super::{
    Access, Attr, Cache, Entry, FsStat, Handle, MAX_OPENS, MAX_SCAN, MAX_WALK, Malformed, Packed, Scanned, WalkEnd,
    wire::{Reader, Wire, get_bytes, get_list, put_bytes, put_list, wire_struct},
};

wire_struct! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Attached { root: Entry, access: Access, cache: Cache, }
}

/// How far a walk came.
#[derive(Debug)]
pub struct Walked {
    /// One entry per name walked.
    pub steps: Vec<Entry>,
    pub end: WalkEnd,
    /// The target of the symbolic link the walk ended at.
    pub link: Option<Vec<u8>>,
    /// The outcome of the open, if one was asked for and the walk ended, complete, at a regular file.
    pub opened: Option<Result<OwnedFd, Errno>>,
}

impl Walked {
    /// Whether this can be the answer to a walk of so many names.
    pub(crate) fn answers(&self, names: usize) -> bool {
        match self.end {
            WalkEnd::Complete => self.steps.len() == names,
            _ => self.steps.len() < names && self.opened.is_none(),
        }
    }
}

/// What of a directory fits in one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    pub entries: Packed,
    /// Nothing comes after these.
    pub end: bool,
}

/// An answer; an error is no `Response` but an [`Errno`].
#[derive(Debug)]
pub enum Response {
    Done,
    Attached(Attached),
    Walked(Walked),
    Attr(Attr),
    Bytes(Vec<u8>),
    Opened(OwnedFd),
    Entries(Entries),
    Created(Entry, OwnedFd),
    Entry(Entry),
    FsStat(FsStat),
    Found(Vec<Result<Entry, Errno>>),
    Attrs(Vec<Result<Attr, Errno>>),
    Scanned(Vec<Scanned>),
    OpenedAll(Vec<Result<(Attr, OwnedFd), Errno>>),
    Notifier(Arc<OwnedFd>),
    /// The number of a watch: the `wd` of its events.
    Watched(u32),
}

impl Response {
    fn op(&self) -> u16 {
        match self {
            Response::Done => 1,
            Response::Attached(_) => 2,
            Response::Walked(_) => 3,
            Response::Attr(_) => 4,
            Response::Bytes(_) => 5,
            Response::Opened(_) => 6,
            Response::Entries(_) => 7,
            Response::Created(..) => 8,
            Response::Entry(_) => 9,
            Response::FsStat(_) => 10,
            Response::Found(_) => 11,
            Response::Attrs(_) => 12,
            Response::Scanned(_) => 13,
            Response::OpenedAll(_) => 14,
            Response::Notifier(_) => 15,
            Response::Watched(_) => 16,
        }
    }

    /// The descriptors that travel with the answer.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Response::Opened(fd) | Response::Created(_, fd) => vec![fd.as_fd()],
            Response::Notifier(fd) => vec![fd.as_fd()],
            Response::Walked(Walked { opened: Some(Ok(fd)), .. }) => vec![fd.as_fd()],
            Response::OpenedAll(opened) => opened.iter().flatten().map(|(_, fd)| fd.as_fd()).collect(),
            _ => Vec::new(),
        }
    }

    /// The handles in the answer, which somebody must forget.
    pub fn handles(&self) -> Vec<Handle> {
        match self {
            Response::Attached(attached) => vec![attached.root.handle],
            Response::Walked(walked) => walked.steps.iter().map(|step| step.handle).collect(),
            Response::Created(entry, _) | Response::Entry(entry) => vec![entry.handle],
            Response::Found(found) => found.iter().flatten().map(|entry| entry.handle).collect(),
            _ => Vec::new(),
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Response::Done | Response::Opened(_) | Response::Notifier(_) => {}
            Response::Watched(watch) => watch.put(out),
            Response::Attached(attached) => attached.put(out),
            Response::Walked(walked) => {
                put_list(&walked.steps, out);
                walked.end.put(out);
                walked.link.put(out);
                match &walked.opened {
                    None => 0u8.put(out),
                    Some(Ok(_)) => 1u8.put(out),
                    Some(Err(errno)) => {
                        2u8.put(out);
                        errno.put(out);
                    }
                }
            }
            Response::Attr(attr) => attr.put(out),
            Response::Bytes(bytes) => put_bytes(bytes, out),
            Response::Entries(Entries { entries, end }) => {
                entries.put(out);
                end.put(out);
            }
            Response::Created(entry, _) | Response::Entry(entry) => entry.put(out),
            Response::FsStat(stat) => stat.put(out),
            Response::Found(found) => put_list(found, out),
            Response::Attrs(attrs) => put_list(attrs, out),
            Response::Scanned(scanned) => put_list(scanned, out),
            Response::OpenedAll(opened) => {
                let outcomes: Vec<Result<Attr, Errno>> =
                    opened.iter().map(|outcome| outcome.as_ref().map(|(attr, _)| *attr).map_err(|errno| *errno)).collect();
                put_list(&outcomes, out);
            }
        }
    }

    fn get_body(op: u16, from: &mut Reader<'_>, fds: &mut dyn Iterator<Item = OwnedFd>) -> Result<Response, Malformed> {
        Ok(match op {
            1 => Response::Done,
            2 => Response::Attached(Wire::get(from)?),
            3 => Response::Walked(Walked {
                steps: get_list(from, MAX_WALK)?,
                end: Wire::get(from)?,
                link: Wire::get(from)?,
                opened: match u8::get(from)? {
                    0 => None,
                    1 => Some(Ok(fds.next().ok_or(Malformed::Descriptor)?)),
                    2 => Some(Err(Wire::get(from)?)),
                    _ => return Err(Malformed::BadValue("open outcome")),
                },
            }),
            4 => Response::Attr(Wire::get(from)?),
            5 => Response::Bytes(get_bytes(from)?.to_vec()),
            6 => Response::Opened(fds.next().ok_or(Malformed::Descriptor)?),
            7 => Response::Entries(Entries { entries: Wire::get(from)?, end: Wire::get(from)? }),
            8 => Response::Created(Wire::get(from)?, fds.next().ok_or(Malformed::Descriptor)?),
            9 => Response::Entry(Wire::get(from)?),
            10 => Response::FsStat(Wire::get(from)?),
            11 => Response::Found(get_list(from, MAX_WALK)?),
            12 => Response::Attrs(get_list(from, MAX_WALK)?),
            13 => Response::Scanned(get_list(from, MAX_SCAN)?),
            14 => {
                let outcomes: Vec<Result<Attr, Errno>> = get_list(from, MAX_OPENS)?;
                let with_fd = |outcome: Result<Attr, Errno>| match outcome {
                    Ok(attr) => Ok(Ok((attr, fds.next().ok_or(Malformed::Descriptor)?))),
                    Err(errno) => Ok(Err(errno)),
                };
                Response::OpenedAll(outcomes.into_iter().map(with_fd).collect::<Result<_, Malformed>>()?)
            }
            15 => Response::Notifier(Arc::new(fds.next().ok_or(Malformed::Descriptor)?)),
            16 => Response::Watched(Wire::get(from)?),
            _ => return Err(Malformed::UnknownOp(op)),
        })
    }

    /// The message for an answer; its descriptors ([`Response::fds`]) go beside it.
    pub fn encode(answer: &Result<Response, Errno>, tag: u64, out: &mut Vec<u8>) {
        out.clear();
        tag.put(out);
        match answer {
            Ok(response) => {
                0u16.put(out);
                response.op().put(out);
                response.put_body(out);
            }
            Err(errno) => {
                errno.put(out);
                0u16.put(out);
            }
        }
    }

    /// # Errors
    /// The message is none, or the descriptors do not go with it: the server is broken or hostile.
    pub fn decode(message: &[u8], fds: impl IntoIterator<Item = OwnedFd>) -> Result<(u64, Result<Response, Errno>), Malformed> {
        let mut from = Reader::new(message);
        let mut fds = fds.into_iter();
        let (tag, errno, op) = (u64::get(&mut from)?, u16::get(&mut from)?, u16::get(&mut from)?);
        let answer = match (errno, op) {
            (0, _) => Ok(Response::get_body(op, &mut from, &mut fds)?),
            (1..=4095, 0) => Err(Errno::from_raw(i32::from(errno))),
            _ => return Err(Malformed::BadValue("errno")),
        };
        from.finish()?;
        if fds.next().is_some() {
            return Err(Malformed::Descriptor);
        }
        Ok((tag, answer))
    }
}
