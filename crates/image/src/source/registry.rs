//! Pulling from a registry into the store.
//!
//! `oci-client` speaks the protocol (on a runtime that exists only meanwhile, on this thread); what is kept, and that it is what its digest says, is here
//! and in the store. A layer that was cut off goes on where it was.

use std::sync::Once;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use oci_spec::image::ImageIndex;

use super::auth;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{self, DOCKER_INDEX, DOCKER_MANIFEST, Image, MOST_DOCUMENT, OCI_INDEX, OCI_MANIFEST, Place};
use crate::progress::{Progress, Step, Update};
use crate::store::{Part, Store};

/// Layers pulled at the same time.
const AT_ONCE: usize = 3;
/// How often a layer is tried.
const TRIES: u32 = 4;

/// How to speak to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS; HTTP to this machine's loopback addresses.
    Secure,
    /// HTTP, whoever listens.
    Plain,
}

struct Pull<'a> {
    client: Client,
    reference: &'a Reference,
    auth: RegistryAuth,
    store: &'a Store,
    progress: &'a dyn Progress,
}

/// Pulls an image into the store, under its reference.
///
/// # Errors
/// The registry's; what it sent is not what its digest says, or not for this machine.
pub fn pull(reference: &Reference, transport: Transport, store: &Store, progress: &dyn Progress) -> Result<Image> {
    let failed = |problem: String| Error::Registry { reference: reference.to_string(), problem };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failed(format!("cannot start: {e}")))?;
    let client = client(reference, transport).map_err(|e| failed(explained(&e)))?;
    let pull = Pull { client, reference, auth: auth::credentials(reference), store, progress };
    let image = runtime.block_on(pull.image());
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    image
}

fn client(reference: &Reference, transport: Transport) -> std::result::Result<Client, OciDistributionError> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let registry = reference.resolve_registry();
    let here = is_loopback(registry);
    let proxy =
        |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty() && !here);
    let protocol = match transport == Transport::Plain || here {
        true => ClientProtocol::HttpsExcept(vec![registry.to_string()]),
        false => ClientProtocol::Https,
    };
    Client::try_from(ClientConfig {
        protocol,
        connect_timeout: Some(Duration::from_secs(30)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("nacre/", env!("CARGO_PKG_VERSION")),
        https_proxy: proxy(["HTTPS_PROXY", "https_proxy"]),
        http_proxy: proxy(["http_proxy", "HTTP_PROXY"]),
        no_proxy: proxy(["NO_PROXY", "no_proxy"]),
        ..ClientConfig::default()
    })
}

/// Whether a registry is on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Pull<'_> {
    async fn image(&self) -> Result<Image> {
        let place = self.reference.to_string();
        let (digest, bytes) = self.manifest().await?;
        let (_, config, layers) = image::manifest(&place, &bytes)?;
        self.blob(config, None).await?;
        let config_bytes = self.store.blob(config)?.read("configuration", MOST_DOCUMENT)?;
        // Before layers are pulled that would be of no use.
        let image = Image::new(&place, Some(digest), &config_bytes, layers)?;
        let mut pulls = Vec::new();
        for layer in &image.layers {
            if let Place::Blob(digest) = layer.place
                && !pulls.iter().any(|(known, _)| *known == digest)
            {
                pulls.push((digest, layer.size));
            }
        }
        let pulls = futures_util::stream::iter(pulls).map(|(digest, size)| self.blob(digest, Some(size)));
        pulls.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.store.add_blob(&bytes)?;
        self.store.set_name(&place, digest, bytes.len() as u64)?;
        Ok(image)
    }

    /// The manifest for this machine.
    async fn manifest(&self) -> Result<(Digest, Vec<u8>)> {
        let place = self.reference.to_string();
        let mut wanted = self.reference.clone();
        for _ in 0..4 {
            let kinds = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
            let (bytes, _) = self.client.pull_manifest_raw(&wanted, &self.auth, &kinds).await.map_err(|e| self.failed(&e))?;
            if bytes.len() as u64 > MOST_DOCUMENT {
                return Err(Error::TooLarge {
                    what: format!("the manifest of {place}"),
                    size: bytes.len() as u64,
                    most: MOST_DOCUMENT,
                });
            }
            let actual = Digest::of(&bytes);
            if let Some(expected) = wanted.digest() {
                let expected = expected.parse().map_err(|e| Error::malformed(&place, e))?;
                if actual != expected {
                    return Err(Error::Digest { what: format!("the manifest of {place}"), expected, actual });
                }
            }
            let document: serde_json::Value = image::parse(&place, &bytes)?;
            if document.get("manifests").is_none() {
                return Ok((actual, bytes.to_vec()));
            }
            let index: ImageIndex = image::parse(&format!("{place}: index"), &bytes)?;
            let chosen = image::digest_of(&place, image::for_this_machine(&place, &index)?)?;
            wanted = wanted.clone_with_digest(chosen.to_string());
        }
        Err(Error::malformed(place, "indexes in indexes without end"))
    }

    /// Brings a blob into the store, unless it is there.
    async fn blob(&self, digest: Digest, size: Option<u64>) -> Result<()> {
        let name = digest.short();
        let most = size.unwrap_or(MOST_DOCUMENT);
        let update = |done| {
            if let Some(total) = size {
                self.progress.update(Update { layer: &name, step: Step::Pulling, done, total });
            }
        };
        let Some(mut part) = self.part(digest).await? else {
            update(most);
            return Ok(());
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.blob_once(digest, most, &mut part, &update).await {
                Ok(()) => {}
                // Nothing more to come: its digest says whether it is whole.
                Err(_) if size == Some(part.length()) => {}
                Err(error @ Error::Registry { .. }) if tries < TRIES => {
                    tracing::debug!("layer {name}: {error}; trying again");
                    tokio::time::sleep(Duration::from_millis(300 << tries)).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if let Some(expected) = size.filter(|expected| *expected != part.length()) {
                let error = Error::Size { what: format!("layer {name}"), expected, actual: part.length() };
                if tries < TRIES && part.length() < expected {
                    continue;
                }
                return Err(error);
            }
            part.finish()?;
            update(most);
            return Ok(());
        }
    }

    async fn blob_once(&self, digest: Digest, most: u64, part: &mut Part, update: &impl Fn(u64)) -> Result<()> {
        let wanted = digest.to_string();
        let answer = match part.length() {
            0 => self.client.pull_blob_stream(self.reference, &*wanted).await.map(BlobResponse::Full),
            offset => self.client.pull_blob_stream_partial(self.reference, &*wanted, offset, None).await,
        };
        let mut stream = match answer {
            Ok(BlobResponse::Partial(stream)) => stream,
            Ok(BlobResponse::Full(stream)) => {
                part.restart()?;
                stream
            }
            Err(error) => {
                // Perhaps it was the offset.
                part.restart()?;
                return Err(self.failed(&error));
            }
        };
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|e| Error::Registry { reference: self.reference.to_string(), problem: explained(&e) })?;
            let size = part.length() + bytes.len() as u64;
            if size > most {
                part.restart()?;
                return Err(Error::TooLarge { what: format!("blob {}", digest.short()), size, most });
            }
            part.write(&bytes)?;
            if part.length() < most {
                update(part.length());
            }
        }
        Ok(())
    }

    /// The beginning of a blob, once no other process is pulling it; None if it is whole.
    async fn part(&self, digest: Digest) -> Result<Option<Part>> {
        let mut told = false;
        loop {
            if self.store.has_blob(digest) {
                return Ok(None);
            }
            // Waiting here for a lock would stop the other layers, which someone may wait for.
            if let Some(part) = self.store.part(digest)? {
                // Finished between the question and the lock.
                return Ok((!self.store.has_blob(digest)).then_some(part));
            }
            if !std::mem::replace(&mut told, true) {
                self.progress.note(&format!("layer {} is being pulled by another process: waiting", digest.short()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn failed(&self, error: &OciDistributionError) -> Error {
        let problem = match error {
            OciDistributionError::ImageManifestNotFoundError(_) => "there is no such image".to_string(),
            OciDistributionError::RegistryError { envelope, .. }
                if envelope
                    .errors
                    .iter()
                    .any(|e| matches!(e.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown)) =>
            {
                "there is no such image".to_string()
            }
            OciDistributionError::UnauthorizedError { .. } => {
                "the registry refuses: it does not exist, or needs credentials (docker login)".to_string()
            }
            other => explained(other),
        };
        Error::Registry { reference: self.reference.to_string(), problem }
    }
}

/// An error with its causes, which say what happened.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(here), "{here}");
        }
        for there in ["localhost.example", "10.0.0.1:5000", "127.0.0.1.example", "128.0.0.1", "[fe80::1]"] {
            assert!(!is_loopback(there), "{there}");
        }
    }
}
