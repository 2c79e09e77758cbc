//! Whom to run as: names and numbers, by the files of the root that the command will see.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, anyhow};
use image::unpack::beneath;
use runtime::process::Privilege;
use rustix::fs::{Mode, OFlags};

/// Most bytes of a passwd or group file that are read.
const MOST_FILE: u64 = 16 << 20;

/// A user with groups.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

impl User {
    /// Who runs this process.
    pub fn own(privilege: Privilege) -> User {
        let groups = match privilege {
            Privilege::Root => rustix::process::getgroups().unwrap_or_default().into_iter().map(|g| g.as_raw()).collect(),
            Privilege::User => Vec::new(),
        };
        User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), groups, home: None }
    }

    /// `USER[:GROUP]`, by the files of `root`, whose links are followed inside it only.
    pub fn parse(text: &str, root: &Path) -> anyhow::Result<User> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(root, flags, Mode::empty());
        let read = |file: &str| -> anyhow::Result<String> {
            let directory = directory.as_ref().map_err(|e| anyhow!("{}: {e}", root.display()))?;
            let bytes = beneath::read_small(directory.as_fd(), file.as_bytes(), MOST_FILE).unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (passwd, groups) = match directory {
            Ok(_) => (read("etc/passwd")?, read("etc/group")?),
            Err(_) => Default::default(),
        };
        User::by_files(text, &passwd, &groups).with_context(|| format!("in {}", root.display()))
    }

    fn by_files(text: &str, passwd: &str, groups: &str) -> anyhow::Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let entry = field(passwd, user, 0).or_else(|| field(passwd, user, 2));
        let uid = match (&entry, user.parse()) {
            (Some(entry), _) => entry.get(2).and_then(|uid| uid.parse().ok()),
            (None, number) => number.ok(),
        };
        let uid = uid.ok_or_else(|| anyhow!("user {text}: there is no user {user:?} in /etc/passwd"))?;
        let gid = match group {
            None => entry.as_ref().and_then(|entry| entry.get(3)?.parse().ok()).unwrap_or(0),
            Some(group) => field(groups, group, 0)
                .and_then(|entry| entry.get(2)?.parse().ok())
                .or_else(|| group.parse().ok())
                .ok_or_else(|| anyhow!("user {text}: there is no group {group:?} in /etc/group"))?,
        };
        let name = entry.as_ref().and_then(|entry| entry.first().copied());
        let member = |line: &&str| line.rsplit(':').next().is_some_and(|list| list.split(',').any(|m| Some(m) == name));
        let more = groups.lines().filter(member).filter_map(|line| line.split(':').nth(2)?.parse().ok());
        let more = if group.is_none() { more.collect() } else { Vec::new() };
        let home =
            entry.as_ref().and_then(|entry| entry.get(5)).filter(|home| home.starts_with('/')).map(|home| home.to_string());
        Ok(User { uid, gid, groups: more, home })
    }
}

/// The line of a passwd-like file whose field `index` is `value`, split.
fn field<'a>(file: &'a str, value: &str, index: usize) -> Option<Vec<&'a str>> {
    file.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(index) == Some(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let user = User::parse("root", Path::new("/")).expect("root");
        assert_eq!((user.uid, user.gid), (0, 0));
        let numbers = User { uid: 12, gid: 34, groups: vec![], home: None };
        assert_eq!(User::parse("12:34", Path::new("/nowhere")).expect("numbers"), numbers);
        assert!(User::parse("nobody-of-that-name", Path::new("/")).is_err());
    }

    #[test]
    fn groups_of_a_user() {
        let (passwd, group) = ("root:x:0:0::/root:/bin/sh\nme:x:7:8::/home/me:/bin/sh\n", "a:x:8:\nb:x:9:you,me\nc:x:10:me\n");
        let of = |text: &str| User::by_files(text, passwd, group).expect("user");
        let me = User { uid: 7, gid: 8, groups: vec![9, 10], home: Some("/home/me".into()) };
        assert_eq!(of("me"), me);
        assert_eq!(of("7"), me);
        assert_eq!(of("me:c"), User { gid: 10, groups: vec![], ..me });
        assert_eq!(of("77"), User { uid: 77, gid: 0, groups: vec![], home: None });
        assert!(User::by_files("me:d", passwd, group).is_err());
    }
}
