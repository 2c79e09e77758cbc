//! [`MountFlags`]: what a mount (not its file system) allows.

bitflags::bitflags! {
    /// A mount's own options, `MS_*` values. Without `NOATIME` and `STRICTATIME` it is relatime.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const NOSYMFOLLOW = 256;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const RELATIME = 1 << 21;
        const STRICTATIME = 1 << 24;

        /// Those that say when access times are kept.
        const ATIME = Self::NOATIME.bits() | Self::NODIRATIME.bits() | Self::RELATIME.bits() | Self::STRICTATIME.bits();
    }
}

impl MountFlags {
    /// The flags among `mount(2)`'s, with one of the rules for access times at most: strictatime wins over noatime, and relatime is the default.
    pub fn from_mount(flags: u64) -> MountFlags {
        let mut flags = MountFlags::from_bits_truncate(flags as u32);
        if flags.contains(MountFlags::STRICTATIME) {
            flags.remove(MountFlags::NOATIME);
        }
        flags.remove(MountFlags::RELATIME);
        flags
    }

    /// As /proc/mounts shows them, without `ro` or `rw`.
    pub fn names(self) -> String {
        let mut text = String::new();
        let mut add = |set: bool, name: &str| {
            if set {
                text.push_str(name);
            }
        };
        add(self.contains(MountFlags::NOSUID), ",nosuid");
        add(self.contains(MountFlags::NODEV), ",nodev");
        add(self.contains(MountFlags::NOEXEC), ",noexec");
        add(self.contains(MountFlags::NOATIME), ",noatime");
        add(self.contains(MountFlags::NODIRATIME), ",nodiratime");
        add(self.is_relatime(), ",relatime");
        add(self.contains(MountFlags::NOSYMFOLLOW), ",nosymfollow");
        text
    }

    pub fn is_relatime(self) -> bool {
        !self.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME)
    }

    /// As `statfs` shows them (`ST_*`), without `ST_VALID`.
    pub fn stat_bits(self) -> u64 {
        let pairs = [
            (MountFlags::RDONLY, 1),
            (MountFlags::NOSUID, 2),
            (MountFlags::NODEV, 4),
            (MountFlags::NOEXEC, 8),
            (MountFlags::NOATIME, 0x400),
            (MountFlags::NODIRATIME, 0x800),
            (MountFlags::NOSYMFOLLOW, 0x2000),
        ];
        let bits = pairs.iter().filter(|(flag, _)| self.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit);
        bits | if self.is_relatime() { 0x1000 } else { 0 }
    }
}
