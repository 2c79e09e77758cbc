//! One unary gRPC call over HTTP/2 on a unix socket.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Client {
    runtime: Runtime,
    socket: String,
}

impl Client {
    pub fn new(socket: &str) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { runtime, socket: socket.into() })
    }

    /// Calls a method of CRI's runtime service.
    pub fn call<Reply: Message + Default>(&self, method: &str, request: &impl Message) -> Result<Reply> {
        let path = format!("http://localhost/runtime.v1.RuntimeService/{method}");
        let call = async { tokio::time::timeout(LIMIT, exchange(&self.socket, &path, request.encode_to_vec())).await };
        let reply = self.runtime.block_on(call).with_context(|| format!("{method}: no answer in {} s", LIMIT.as_secs()))?;
        Ok(Reply::decode(reply.with_context(|| method.to_string())?.as_slice())?)
    }
}

async fn exchange(socket: &str, path: &str, message: Vec<u8>) -> Result<Vec<u8>> {
    let stream = UnixStream::connect(socket).await.with_context(|| format!("cannot connect to {socket}"))?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let driver = async { drop(connection.await) };
    let talk = async {
        let mut client = client.ready().await?;
        let head = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let (response, mut body) = client.send_request(head, false)?;
        // Not compressed, its length, the message.
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        body.send_data(Bytes::from(frame), true)?;
        let response = response.await?;
        fail(response.headers())?;
        let mut received = response.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = received.data().await {
            let piece = piece?;
            received.flow_control().release_capacity(piece.len())?;
            bytes.extend_from_slice(&piece);
        }
        if let Some(trailers) = received.trailers().await? {
            fail(&trailers)?;
        }
        bytes.get(5..).map(<[u8]>::to_vec).context("the answer is empty")
    };
    tokio::pin!(driver, talk);
    // The connection is driven by whoever waits.
    std::future::poll_fn(|cx| {
        let _ = driver.as_mut().poll(cx);
        talk.as_mut().poll(cx)
    })
    .await
}

/// An error if a status says so.
fn fail(headers: &http::HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => bail!("code {code}: {}", text("grpc-message").unwrap_or("no message")),
    }
}
