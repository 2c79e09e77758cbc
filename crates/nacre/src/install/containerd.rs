//! /etc/containerd/config.toml: a block of runtime handlers at its end.

use anyhow::{Result, bail};

use super::{Change, Content, Places, Wish, read};

const BEGIN: &str = "# nacre: begin. Written by `nacre install --containerd`; `--uninstall` takes it away.\n";
const END: &str = "# nacre: end\n";
/// Those that a pod's author may use. Not all: `dev.nacre.rootfs` names a file of the host.
const ANNOTATIONS: &str = r#""dev.nacre.sandbox", "dev.nacre.overlay", "dev.nacre.network""#;

pub(super) fn plan(wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let path = places.config("/etc/containerd/config.toml");
    let text = match read(&path)? {
        Content::Text(text) => Some(text),
        Content::Absent => None,
        Content::Link(to) => bail!("{} is a link, to {}: change that file", path.display(), to.display()),
        Content::Copy(_) => bail!("{} is a program", path.display()),
    };
    let others = match text.as_deref().map(without_block).transpose() {
        Ok(others) => others,
        Err(what) => bail!("{}: {what}", path.display()),
    };
    let after = match (wish, others.filter(|others| !others.is_empty())) {
        // There was none, or it was ours alone.
        (Wish::Uninstall, None) => Content::Absent,
        (Wish::Uninstall, Some(others)) => Content::Text(others),
        (Wish::Install, None) => Content::Text(block("version = 2\n", "")),
        (Wish::Install, Some(mut text)) => {
            if text.lines().any(|line| line.contains(".runtimes.nacre]") || line.contains(".runtimes.nacre-vm]")) {
                bail!("{}: a handler runtimes.nacre is there already, which this command has not written", path.display());
            }
            if !text.ends_with('\n') {
                text.push('\n');
            }
            let block = block("", &text);
            text.push_str(&block);
            Content::Text(text)
        }
    };
    Ok(vec![Change::new(path, after)?])
}

/// Whether nacre is known to containerd.
pub(super) fn is_installed(places: &Places) -> bool {
    matches!(read(&places.config("/etc/containerd/config.toml")), Ok(Content::Text(text)) if text.contains(BEGIN))
}

/// The plugin that has the runtime handlers: another in the form that containerd 2 writes.
fn plugin(text: &str) -> &'static str {
    let version = text.lines().find_map(|line| line.trim().strip_prefix("version")?.trim().strip_prefix('='));
    match version.map(str::trim) {
        Some("3") => "io.containerd.cri.v1.runtime",
        _ => "io.containerd.grpc.v1.cri",
    }
}

/// The handlers for a file with this text, after what a file of ours alone begins with.
///
/// containerd has a handler runc of its own only where a file names none at all, and does without CRI where the default one is missing: so one that names
/// none gets that, too.
fn block(head: &str, text: &str) -> String {
    let plugin = plugin(text);
    let table = |name: &str| {
        format!("[plugins.\"{plugin}\".containerd.runtimes.{name}]\n  runtime_type = \"io.containerd.{name}.v2\"\n")
    };
    let handler =
        |name: &str| format!("{}  pod_annotations = [{ANNOTATIONS}]\n  container_annotations = [{ANNOTATIONS}]\n", table(name));
    let names_one = text.lines().any(|line| line.trim_start().starts_with('[') && line.contains(".containerd.runtimes."));
    let runc = if names_one { String::new() } else { table("runc") };
    format!("{BEGIN}{head}{runc}{}{}{END}", handler("nacre"), handler("nacre-vm"))
}

/// The text without our block.
fn without_block(text: &str) -> Result<String, String> {
    let Some((before, rest)) = text.split_once(BEGIN) else { return Ok(text.into()) };
    let Some((_, after)) = rest.split_once(END) else { return Err("the mark \"nacre: end\" is missing".into()) };
    Ok(format!("{before}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_follows_the_files_version() {
        assert_eq!(plugin("# x\nversion = 3\n"), "io.containerd.cri.v1.runtime");
        assert_eq!(plugin("version = 2\n"), "io.containerd.grpc.v1.cri");
        assert_eq!(plugin(""), "io.containerd.grpc.v1.cri");
    }

    #[test]
    fn who_names_no_handler_keeps_the_one_there_was() {
        let runc = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]";
        assert!(block("", "version = 2\n").contains(runc));
        assert!(!block("", &format!("version = 2\n  {runc}\n")).contains(runc));
        assert!(block("", "# [x.containerd.runtimes.y]\n").contains(runc));
    }

    #[test]
    fn annotations_are_let_through_by_name() {
        let block = block("", "");
        let lists: Vec<_> = block.lines().filter(|line| line.contains("_annotations = ")).collect();
        assert_eq!(lists.len(), 4, "{block}");
        assert!(
            lists.iter().all(|list| !list.contains('*') && !list.contains("rootfs") && list.contains(".sandbox")),
            "{block}"
        );
    }

    #[test]
    fn a_block_is_found_between_other_lines() {
        let text = format!("a\n{}b\n", block("", ""));
        assert_eq!(without_block(&text).as_deref(), Ok("a\nb\n"));
        assert!(without_block(&format!("a\n{BEGIN}b\n")).is_err());
    }
}
