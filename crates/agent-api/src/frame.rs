//! ttrpc's frames: a header of 10 bytes (payload length, stream id, kind, flags; big-endian), then the payload.

use prost::Message;

/// Length of a header in bytes.
pub const HEADER: usize = 10;
/// Longest payload either side accepts, in bytes (ttrpc's own limit).
pub const MAX_PAYLOAD: usize = 4 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

/// A frame's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload length in bytes, at most [`MAX_PAYLOAD`].
    pub len: usize,
    /// Chosen by the client (odd numbers); the response repeats it.
    pub stream: u32,
    pub kind: Kind,
}

/// The other side sent what is no frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is longer than {MAX_PAYLOAD}")]
    TooLong(u32),
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl Header {
    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (len, rest) = bytes.split_at_mut(4);
        let (stream, rest) = rest.split_at_mut(4);
        len.copy_from_slice(&(self.len as u32).to_be_bytes());
        stream.copy_from_slice(&self.stream.to_be_bytes());
        rest.copy_from_slice(&[
            match self.kind {
                Kind::Request => 1,
                Kind::Response => 2,
            },
            0,
        ]);
        bytes
    }

    /// Checks a received header. Flags are ignored, as no streaming method exists.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::UnknownKind`].
    pub fn parse(bytes: [u8; HEADER]) -> Result<Header, FrameError> {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = bytes;
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(len));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            other => return Err(FrameError::UnknownKind(other)),
        };
        Ok(Header { len: len as usize, stream: u32::from_be_bytes([s0, s1, s2, s3]), kind })
    }
}

/// ttrpc's `Request`.
#[derive(Clone, PartialEq, Message)]
pub struct RequestBody {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

/// ttrpc's `Response`.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseBody {
    #[prost(message, optional, tag = "1")]
    pub status: Option<StatusBody>,
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// `google.rpc.Status`, without details.
#[derive(Clone, PartialEq, Message)]
pub struct StatusBody {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
}

/// A whole frame with `body`.
pub fn encode(stream: u32, kind: Kind, body: &impl Message) -> Vec<u8> {
    let header = Header { len: body.encoded_len(), stream, kind };
    let mut bytes = Vec::with_capacity(HEADER + header.len);
    bytes.extend_from_slice(&header.to_bytes());
    // A Vec grows: encoding into one cannot fail.
    let _ = body.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire_in_big_endian() {
        let header = Header { len: 0x0102, stream: 7, kind: Kind::Response };
        assert_eq!(header.to_bytes(), [0, 0, 1, 2, 0, 0, 0, 7, 2, 0]);
        assert_eq!(Header::parse(header.to_bytes()), Ok(header));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Header::parse([0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0]), Err(FrameError::TooLong(0xff00_0000)));
        assert_eq!(Header::parse([0, 0, 0, 0, 0, 0, 0, 1, 9, 0]), Err(FrameError::UnknownKind(9)));
    }
}
