//! The command line: global flags, as runc has them, and one variant per verb.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use runtime::cgroup::Driver;
use runtime::cni::{NetworkWish, PortMapping, Wish};
use runtime::container::Runtime;
use runtime::logging::{self, Format};
use runtime::process::{Network, Privilege};
use runtime::sandbox::Kind;
use runtime::state::Store;

use crate::cmd;

/// Secure container runtime: a container's kernel is a program of its own.
#[derive(Debug, Parser)]
#[command(name = "nacre", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Do(cmd::do_::Do),
    Spec(cmd::spec::Spec),
    Create(cmd::create::Create),
    Start(cmd::start::Start),
    Run(cmd::run::Run),
    Exec(cmd::exec::Exec),
    State(cmd::state::State),
    Kill(cmd::kill::Kill),
    Delete(cmd::delete::Delete),
    List(cmd::list::List),
    Ps(cmd::ps::Ps),
    Pause(cmd::pause::Pause),
    Resume(cmd::resume::Resume),
    Update(cmd::update::Update),
    Events(cmd::events::Events),
    Metrics(cmd::metrics::Metrics),
    Top(cmd::top::Top),
    Image(cmd::image::Image),
    Guest(cmd::guest::Guest),
    Install(cmd::install::Install),
    Features(cmd::features::Features),
    Debug(cmd::debug::Debug),
    PortForward(cmd::port_forward::PortForward),
    Help(cmd::help::Help),
}

/// Flags before the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory for container state [default: /run/nacre; for ordinary users $XDG_RUNTIME_DIR/nacre]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory for images [default: /var/lib/nacre/images; for ordinary users $XDG_DATA_HOME/nacre/images]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// What containers run in: sentry (a kernel in user space) or vm [default: $NACRE_SANDBOX, annotation dev.nacre.sandbox, or
    /// sentry]
    #[arg(long, value_name = "KIND")]
    sandbox: Option<Kind>,
    /// Log file [default: standard error]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Log format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub debug: bool,
    /// Cgroups are named as systemd's (cgroupsPath SLICE:PREFIX:NAME), and nothing else is; they are made by cgroupfs all the same
    #[arg(long)]
    systemd_cgroup: bool,
    /// Ignore cgroup permission errors: true, false or auto
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    rootless: String,
}

/// Flags about a sandbox's network.
#[derive(Debug, Args)]
pub struct Net {
    /// Network: none (a loopback interface), host (sockets in the network namespace nacre runs in), cni or cni:NAME (one that
    /// the host's CNI plugins make), or the path of a network namespace to join. The default is what a bundle's config.json says; without a bundle, none
    #[arg(long, value_name = "MODE", value_parser = network)]
    net: Option<NetworkWish>,
    /// Publish a port of the sandbox on the host, with --net cni: [ADDRESS:]HOST:SANDBOX[/tcp|udp|sctp]
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<PortMapping>,
}

impl Net {
    /// What the flags ask for together.
    ///
    /// # Errors
    /// Ports to publish, and no network that could.
    pub fn wish(&self) -> anyhow::Result<NetworkWish> {
        match self.net.clone().unwrap_or_default() {
            NetworkWish::Cni(wish) => Ok(NetworkWish::Cni(Wish { ports: self.publish.clone(), ..wish })),
            ready if self.publish.is_empty() => Ok(ready),
            _ => bail!("--publish needs --net cni"),
        }
    }
}

/// # Errors
/// It is no network.
fn network(text: &str) -> Result<NetworkWish, String> {
    let ready = |network| Ok(NetworkWish::Ready(network));
    match text {
        "none" => ready(Network::None),
        "host" => ready(Network::Host),
        "cni" => Ok(NetworkWish::Cni(Wish::default())),
        path if path.contains('/') => ready(Network::Namespace(PathBuf::from(path))),
        other => match other.strip_prefix("cni:").filter(|name| !name.is_empty()) {
            Some(name) => Ok(NetworkWish::Cni(Wish { network: Some(name.into()), ports: Vec::new() })),
            None => {
                Err(format!("{other:?} is neither none, host, cni nor the path of a network namespace (/run/netns/{other}?)"))
            }
        },
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Global {
    /// Starts logging and refuses what is not supported.
    pub fn start(&self) -> anyhow::Result<()> {
        let file = match &self.log {
            None => None,
            Some(path) => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Some(opened.with_context(|| format!("cannot open the log file {}", path.display()))?)
            }
        };
        logging::install(&self.log_config(), file);
        if !["true", "false", "auto"].contains(&self.rootless.as_str()) {
            bail!("--rootless takes true, false or auto, not {:?}", self.rootless);
        }
        Ok(())
    }

    pub fn log_config(&self) -> logging::Config {
        let format = match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        logging::Config { format, debug: self.debug, sandbox: None }
    }

    /// The log file again, for a sandbox to log to.
    pub fn log_file(&self) -> Option<std::fs::File> {
        OpenOptions::new().append(true).open(self.log.as_ref()?).ok()
    }

    /// With a log file the log is not where people look: as runc, say it on a terminal too.
    pub fn echo_error(&self, error: &anyhow::Error) {
        if self.log.is_some() && std::io::stderr().is_terminal() {
            eprintln!("nacre: {error:#}");
        }
    }

    /// The runtime these flags describe.
    pub fn runtime(&self) -> Runtime {
        Runtime {
            store: Store::new(self.root()),
            privilege: self.privilege(),
            cgroups: if self.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs },
            log: self.log_config(),
            log_file: self.log_file(),
        }
    }

    /// What containers run in, if it is said.
    pub fn sandbox(&self) -> anyhow::Result<Option<Kind>> {
        match (self.sandbox, std::env::var("NACRE_SANDBOX")) {
            (Some(kind), _) => Ok(Some(kind)),
            (None, Ok(text)) if !text.is_empty() => {
                text.parse().map(Some).map_err(|what| anyhow::anyhow!("NACRE_SANDBOX: {what}"))
            }
            (None, _) => Ok(None),
        }
    }

    pub fn privilege(&self) -> Privilege {
        match self.rootless.as_str() {
            "true" => Privilege::User,
            "false" => Privilege::Root,
            _ => Privilege::current(),
        }
    }

    /// Where images are kept.
    pub fn images(&self) -> anyhow::Result<image::store::Store> {
        let dir = self.store.clone().unwrap_or_else(image::store::Store::default_dir);
        Ok(image::store::Store::open(&std::path::absolute(dir)?)?)
    }

    /// Where state is kept.
    pub fn root(&self) -> PathBuf {
        if let Some(root) = &self.root {
            return root.clone();
        }
        // A rootless engine's root keeps it where its user does.
        let may_write = || rustix::fs::access("/run", rustix::fs::Access::WRITE_OK).is_ok();
        if rustix::process::geteuid().is_root() && (!runtime::process::in_user_namespace() || may_write()) {
            return PathBuf::from("/run/nacre");
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir).join("nacre"),
            None => std::env::temp_dir().join(format!("nacre-{}", runtime::process::user_outside())),
        }
    }
}

/// clap's errors with runc's exit code (help and version are no errors).
pub fn usage_error(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ExitCode::SUCCESS
        }
        ErrorKind::InvalidSubcommand => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}
