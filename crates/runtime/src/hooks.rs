//! OCI hooks: programs run with the container's state on standard input.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks};

use crate::child;
use crate::error::{Doing, Error, Result};

/// How long a hook may take that sets itself no limit: whoever runs it holds the container's lock.
const PATIENCE: Duration = Duration::from_secs(120);
/// What of a failed hook's words is shown, in bytes.
const STDERR: u64 = 8 << 10;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    Poststart,
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    fn of(self, hooks: &Hooks) -> &[Hook] {
        let list = match self {
            Moment::Prestart => hooks.prestart(),
            Moment::CreateRuntime => hooks.create_runtime(),
            Moment::CreateContainer => hooks.create_container(),
            Moment::Poststart => hooks.poststart(),
            Moment::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// Runs the hooks of a moment in order, each with `state` on its standard input.
///
/// # Errors
/// The first that fails or takes too long; the rest do not run.
pub fn run(hooks: Option<&Hooks>, moment: Moment, state: &serde_json::Value) -> Result<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    for (index, hook) in moment.of(hooks).iter().enumerate() {
        one(hook, &state.to_string())
            .map_err(|e| Error::Other(format!("error running {} hook #{index}: {e}", moment.name())))?;
    }
    Ok(())
}

/// Runs all, whatever happens: failures are logged.
pub fn run_all(hooks: Option<&Hooks>, moment: Moment, state: &serde_json::Value) {
    for (index, hook) in hooks.map(|hooks| moment.of(hooks)).into_iter().flatten().enumerate() {
        if let Err(error) = one(hook, &state.to_string()) {
            tracing::warn!("{} hook #{index}: {error}", moment.name());
        }
    }
}

fn one(hook: &Hook, state: &str) -> Result<()> {
    let path = hook.path();
    let mut command = Command::new(path);
    // OCI's args include argv[0], its env is all there is.
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command.args(args.iter().skip(1)).env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
    // Files, no pipes: a hook need not read the one, and what it leaves running may keep the other.
    let stream = |content: &[u8]| child::file_of(content).doing(|| "cannot make a hook's streams");
    let mut said = stream(b"")?;
    let stderr = said.try_clone().doing(|| "cannot make a hook's streams")?;
    command.stdin(stream(state.as_bytes())?).stdout(Stdio::null()).stderr(stderr);
    let patience =
        hook.timeout().and_then(|seconds| u32::try_from(seconds).ok()).map_or(PATIENCE, |s| Duration::from_secs(s.into()));
    let mut hook = command.spawn().doing(|| format!("cannot run {}", path.display()))?;
    let ended = child::wait_until(&mut hook, Instant::now() + patience).doing(|| "cannot wait for the hook")?;
    let Some(ended) = ended else {
        return Err(Error::Other(format!("{} did not end within {} seconds", path.display(), patience.as_secs())));
    };
    if ended.success() {
        return Ok(());
    }
    let text = child::content(&mut said, STDERR).doing(|| "cannot read what the hook has said")?;
    Err(Error::Other(format!("{}: {ended}, stderr: {}", path.display(), String::from_utf8_lossy(&text).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{HookBuilder, HooksBuilder};

    fn shell(script: &str, timeout: Option<i64>) -> Hooks {
        let args = ["sh", "-c", script].map(String::from).to_vec();
        let hook = HookBuilder::default().path("/bin/sh").args(args).env(vec!["A=b".to_string()]);
        let hook = match timeout {
            Some(seconds) => hook.timeout(seconds),
            None => hook,
        };
        HooksBuilder::default().poststart(vec![hook.build().expect("hook")]).build().expect("hooks")
    }

    #[test]
    fn state_comes_on_stdin_and_env_is_the_hooks_own() {
        let state = serde_json::json!({"id": "x"});
        let hooks = shell(r#"[ "$(cat)" = '{"id":"x"}' ] && [ "$A" = b ] && [ -z "$HOME" ]"#, Some(10));
        run(Some(&hooks), Moment::Poststart, &state).expect("hook");
        run(Some(&hooks), Moment::Poststop, &state).expect("none");
    }

    #[test]
    fn failures_and_timeouts_are_told() {
        let state = serde_json::json!({});
        let error =
            run(Some(&shell("echo broken >&2; exit 3", None)), Moment::Poststart, &state).expect_err("fails").to_string();
        assert!(error.contains("poststart hook #0") && error.contains("broken") && error.contains('3'), "{error}");
        // What a hook leaves running is none of its end, nor does it have to read or be short.
        let hooks = shell("sleep 30 & head -c 200000 /dev/zero >&2; exit 4", None);
        let long = serde_json::json!({"annotations": "x".repeat(200_000)});
        let error = run(Some(&hooks), Moment::Poststart, &long).expect_err("fails").to_string();
        assert!(error.contains('4'), "{error}");
        let error = run(Some(&shell("sleep 10", Some(0))), Moment::Poststart, &state).expect_err("slow").to_string();
        assert!(error.contains("did not end"), "{error}");
    }
}
