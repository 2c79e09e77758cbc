//! What others change in trees that a VM is shown.

use prost::Message;

/// Changes that the guest's kernel is to be made to tell its programs of, in order. Answered when that has been tried.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FilesChangedRequest {
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<FileChange>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FileChange {
    #[prost(enumeration = "Happening", tag = "1")]
    pub happening: i32,
    /// What kind of file was made or removed (`S_IFMT`; of removed ones only whether it was a directory is known).
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// The directory, below where the trees are.
    #[prost(bytes = "vec", tag = "3")]
    pub directory: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub name: Vec<u8>,
    /// Where it was moved to.
    #[prost(bytes = "vec", tag = "5")]
    pub target_directory: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub target_name: Vec<u8>,
    /// What the device is told before the change is made once more, as an attribute of its root.
    #[prost(bytes = "vec", tag = "7")]
    pub token: Vec<u8>,
}

impl FileChange {
    /// The attribute.
    pub const ATTRIBUTE: &str = "trusted.nacre.replay";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Happening {
    Created = 0,
    Deleted = 1,
    Moved = 2,
    Written = 3,
    AttributesChanged = 4,
    /// By one who could write.
    Closed = 5,
}
