//! Credentials, from the files that docker and podman keep.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// docker's config.json, as far as it is about credentials.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    registrytoken: String,
}

/// What a credential helper answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The credentials for a reference's registry; anonymous if there are none. What cannot be used is logged.
pub(super) fn credentials(reference: &Reference) -> RegistryAuth {
    let registries = [reference.registry(), reference.resolve_registry()];
    for path in paths() {
        let Ok(text) = std::fs::read(&path) else { continue };
        let file: File = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!("credentials in {} cannot be used: {error}", path.display());
                continue;
            }
        };
        if let Some(auth) = registries.iter().find_map(|registry| file.get(registry)) {
            return auth;
        }
    }
    RegistryAuth::Anonymous
}

fn paths() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|home| home.join(".docker")));
    let all = [
        variable("REGISTRY_AUTH_FILE"),
        docker.map(|dir| dir.join("config.json")),
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
    ];
    all.into_iter().flatten().collect()
}

impl File {
    fn get(&self, registry: &str) -> Option<RegistryAuth> {
        let of = |key: &str| host(key) == registry;
        if let Some((key, helper)) = self.helpers.iter().find(|(key, _)| of(key)) {
            return helped(helper, key);
        }
        let (key, entry) = self.auths.iter().find(|(key, _)| of(key))?;
        entry.auth().or_else(|| helped(self.store.as_ref()?, key))
    }
}

impl Entry {
    fn auth(&self) -> Option<RegistryAuth> {
        if !self.registrytoken.is_empty() {
            return Some(RegistryAuth::Bearer(self.registrytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(RegistryAuth::Basic(self.username.clone(), self.password.clone()));
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(RegistryAuth::Basic(user.into(), password.into()))
    }
}

/// Keys are hosts, or (older) addresses with a scheme and a path.
fn host(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or_default()
}

/// Asks `docker-credential-NAME`.
fn helped(name: &str, key: &str) -> Option<RegistryAuth> {
    let program = format!("docker-credential-{name}");
    let ask = || -> std::io::Result<Helped> {
        let mut child =
            Command::new(&program).arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(key.as_bytes())?;
        }
        Ok(serde_json::from_slice(&child.wait_with_output()?.stdout)?)
    };
    match ask() {
        // An identity token, which is no password.
        Ok(helped) if helped.username == "<token>" => {
            tracing::warn!("{program} has an identity token for {key}, which is not supported");
            None
        }
        Ok(helped) => Some(RegistryAuth::Basic(helped.username, helped.secret)),
        Err(error) => {
            tracing::debug!("{program} has no credentials for {key}: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_host() {
        let text = r#"{"auths": {"https://a.example/v1/": {"auth": "dTpwOnE="}, "b.example:5000": {"username": "x", "password": "y"}, "c.example": {}}}"#;
        let file: File = serde_json::from_str(text).expect("file");
        assert_eq!(file.get("a.example"), Some(RegistryAuth::Basic("u".into(), "p:q".into())));
        assert_eq!(file.get("b.example:5000"), Some(RegistryAuth::Basic("x".into(), "y".into())));
        assert_eq!(file.get("c.example"), None);
        assert_eq!(file.get("b.example"), None);
    }
}
