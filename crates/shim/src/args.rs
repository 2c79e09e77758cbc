//! The command line that containerd calls shims with: flags in Go's style (`-id ID`, `-id=ID`, one dash or two), then a verb.

use std::path::PathBuf;

/// What the shim is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Leave a process that serves, and say where.
    Start,
    /// Clear away what a dead shim has left.
    Delete,
    /// Serve: what `start` leaves.
    Serve,
    /// Say what this is (`-info`).
    Info,
    Version,
}

/// The flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    pub verb: Verb,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id; of a process that serves, the pod's.
    pub id: String,
    /// containerd's socket.
    pub address: String,
    /// With `delete`; else the current directory is the bundle.
    pub bundle: Option<PathBuf>,
    pub debug: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    #[error("flag -{0} needs a value")]
    NoValue(String),
    #[error("unknown verb {0:?}: start or delete")]
    UnknownVerb(String),
    #[error("-{0} is missing")]
    Missing(&'static str),
}

impl Args {
    /// # Errors
    /// What is missing. Unknown flags are skipped, with their value: later containerds have more.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Args, ArgsError> {
        let mut parsed = Args {
            verb: Verb::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                parsed.verb = match arg.as_str() {
                    "start" => Verb::Start,
                    "delete" => Verb::Delete,
                    "serve" => Verb::Serve,
                    _ => return Err(ArgsError::UnknownVerb(arg)),
                };
                continue;
            };
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_string())));
            match name {
                "debug" => parsed.debug = value.is_none_or(|value| value == "true"),
                "info" => parsed.verb = Verb::Info,
                "v" | "version" => parsed.verb = Verb::Version,
                _ => {
                    let value = value.or_else(|| args.next()).ok_or_else(|| ArgsError::NoValue(name.into()))?;
                    match name {
                        "namespace" => parsed.namespace = value,
                        "id" => parsed.id = value,
                        "address" => parsed.address = value,
                        "bundle" => parsed.bundle = Some(value.into()),
                        _ => {}
                    }
                }
            }
        }
        if matches!(parsed.verb, Verb::Info | Verb::Version) {
            return Ok(parsed);
        }
        match (parsed.namespace.is_empty(), parsed.id.is_empty()) {
            (true, _) => Err(ArgsError::Missing("namespace")),
            (_, true) => Err(ArgsError::Missing("id")),
            _ => Ok(parsed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args, ArgsError> {
        Args::parse(text.split_whitespace().map(String::from))
    }

    #[test]
    fn as_containerd_calls() {
        let start =
            parse("-namespace k8s.io -address /c.sock -publish-binary /usr/bin/containerd -id abc start").expect("start");
        assert_eq!((start.verb, start.namespace.as_str(), start.id.as_str()), (Verb::Start, "k8s.io", "abc"));
        let delete = parse("--namespace=x -debug -id=y -bundle /b delete").expect("delete");
        assert_eq!((delete.verb, delete.debug, delete.bundle), (Verb::Delete, true, Some("/b".into())));
        assert_eq!(parse("-info").expect("info").verb, Verb::Info);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(parse("-id x start"), Err(ArgsError::Missing("namespace"))));
        assert!(matches!(parse("-namespace x start"), Err(ArgsError::Missing("id"))));
        assert!(matches!(parse("-namespace"), Err(ArgsError::NoValue(_))));
        assert!(matches!(parse("-namespace a -id b run"), Err(ArgsError::UnknownVerb(_))));
    }
}
