//! What an image's configuration says about the process to run.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

/// The configuration's part about running, without what nacre has no use for (exposed ports, volumes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=VALUE`
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names or numbers; empty for root.
    pub user: String,
    /// Absolute; `/` if the image says nothing.
    pub cwd: String,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// What a person can say instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    pub command: Vec<String>,
    /// An empty text takes the image's entrypoint away.
    pub entrypoint: Option<String>,
}

impl Settings {
    pub fn of(config: &ImageConfiguration) -> Settings {
        let Some(config) = config.config() else { return Settings { cwd: "/".into(), ..Settings::default() } };
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let cwd = config.working_dir().clone().unwrap_or_default();
        Settings {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()).into_iter().filter(|entry| entry.contains('=')).collect(),
            user: config.user().clone().unwrap_or_default(),
            cwd: if cwd.starts_with('/') { cwd } else { format!("/{cwd}") },
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        }
    }

    /// The arguments to run. None if nobody says what.
    ///
    /// As docker: a command replaces the image's; an entrypoint replaces the image's and its command too.
    pub fn arguments(&self, wishes: &Wishes) -> Option<Vec<String>> {
        let (entrypoint, cmd) = match &wishes.entrypoint {
            Some(entrypoint) if entrypoint.is_empty() => (Vec::new(), Vec::new()),
            Some(entrypoint) => (vec![entrypoint.clone()], Vec::new()),
            None => (self.entrypoint.clone(), self.cmd.clone()),
        };
        let cmd = if wishes.command.is_empty() { cmd } else { wishes.command.clone() };
        let all = [entrypoint, cmd].concat();
        (!all.is_empty()).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> Settings {
        let config = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "config": json});
        Settings::of(&serde_json::from_value(config).expect("configuration"))
    }

    #[test]
    fn nulls_and_absence_are_defaults() {
        let nothing = Settings { cwd: "/".into(), ..Settings::default() };
        assert_eq!(settings(serde_json::json!(null)), nothing);
        assert_eq!(
            settings(
                serde_json::json!({"Env": null, "Cmd": null, "Entrypoint": null, "Labels": null, "WorkingDir": "", "User": ""})
            ),
            nothing
        );
    }

    #[test]
    fn commands_and_entrypoints_as_docker() {
        let settings = settings(
            serde_json::json!({"Entrypoint": ["/e", "x"], "Cmd": ["c"], "WorkingDir": "w", "ExposedPorts": {"80/tcp": {}}}),
        );
        let wish = |command: &[&str], entrypoint: Option<&str>| {
            let command = command.iter().map(|s| s.to_string()).collect();
            settings.arguments(&Wishes { command, entrypoint: entrypoint.map(String::from) }).map(|all| all.join(" "))
        };
        assert_eq!(settings.cwd, "/w");
        assert_eq!(wish(&[], None).as_deref(), Some("/e x c"));
        assert_eq!(wish(&["a", "b"], None).as_deref(), Some("/e x a b"));
        assert_eq!(wish(&["a"], Some("/f")).as_deref(), Some("/f a"));
        assert_eq!(wish(&[], Some("/f")).as_deref(), Some("/f"));
        assert_eq!(wish(&["a"], Some("")).as_deref(), Some("a"));
        assert_eq!(wish(&[], Some("")), None);
    }
}
