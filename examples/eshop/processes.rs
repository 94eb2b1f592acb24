//! Starts the services as processes, on a private RabbitMQ where none is given, and kills them on the way.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Args;
use crate::place::Place;
use crate::services::Service;

/// How long a service may take to end when it is asked to.
const ENDING: Duration = Duration::from_secs(15);

/// The script that starts private nodes.
const RABBITMQ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

/// A RabbitMQ of our own. It ends with this process, however that ends.
#[derive(Clone, Debug)]
pub struct PrivateBroker {
    pub url: String,
    pub directory: PathBuf,
}

impl PrivateBroker {
    pub fn start() -> Result<Self, Box<dyn Error>> {
        let said = rabbitmq(&["start", "--owner", &std::process::id().to_string()])?;
        let value = |name: &str| {
            let words = said.split_whitespace();
            let mut values = words.filter_map(|word| word.strip_prefix(name));
            values.next().map(str::to_owned)
        };
        match (value("AMQP_URL="), value("RABBITMQ_DIR=")) {
            (Some(url), Some(directory)) => Ok(Self {
                url,
                directory: directory.into(),
            }),
            _ => Err(format!("{RABBITMQ} start said: {said}").into()),
        }
    }

    /// `kill -9`, and the same node again.
    pub fn kill_and_restart(&self) -> Result<(), String> {
        let directory = self.directory.display().to_string();
        let killed = rabbitmq(&["kill", &directory]);
        let again = || rabbitmq(&["start", "--dir", &directory]);
        killed.and_then(|_| again()).map(drop)
    }

    pub fn stop(&self) -> Result<(), String> {
        rabbitmq(&["stop", &self.directory.display().to_string()]).map(drop)
    }
}

fn rabbitmq(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(RABBITMQ)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{RABBITMQ}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{RABBITMQ} {}: {said}", arguments.join(" ")))
}

/// The services' processes. They end when this does: each reads its standard input, whose other end is held here.
pub struct Processes {
    children: Vec<(Service, Child)>,
    arguments: Vec<String>,
    url: String,
    place: Place,
}

impl Processes {
    /// Starts every service but the storefront, which this process is.
    pub fn start(args: &Args, url: &str, place: Place) -> io::Result<Self> {
        let mut arguments = args.handed_on(&place);
        arguments.push("--owned".to_owned());
        let mut processes = Self {
            children: Vec::new(),
            arguments,
            url: url.to_owned(),
            place,
        };
        for service in Service::ALL {
            if service != Service::Storefront {
                let child = processes.spawn(service)?;
                processes.children.push((service, child));
            }
        }
        Ok(processes)
    }

    fn spawn(&self, service: Service) -> io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(["--service", service.name()])
            .args(&self.arguments)
            // Not as an argument, which everybody on the machine can read: it may hold a password.
            .env("AMQP_URL", &self.url)
            .envs(self.place.url().map(|url| ("ESHOP_DATABASE", url)))
            .stdin(Stdio::piped())
            .spawn()
    }

    /// `kill -9`, and a new process in its place.
    pub fn kill_and_restart(&mut self, service: Service) -> io::Result<()> {
        let child = self.spawn_in_place_of(service)?;
        self.children.push((service, child));
        Ok(())
    }

    fn spawn_in_place_of(&mut self, service: Service) -> io::Result<Child> {
        if let Some(place) = self.children.iter().position(|(name, _)| *name == service) {
            let (_, mut child) = self.children.swap_remove(place);
            child.kill()?;
            child.wait()?;
        }
        self.spawn(service)
    }

    /// The first that ended by itself: nothing that is meant to happen.
    pub fn ended(&mut self) -> Option<Service> {
        let mut children = self.children.iter_mut();
        children.find_map(|(service, child)| match child.try_wait() {
            Ok(None) => None,
            _ => Some(*service),
        })
    }

    /// Asks all to end, and answers whether all did, in order and in time.
    pub fn end(&mut self) -> bool {
        for (_, child) in &mut self.children {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + ENDING;
        let mut all_well = true;
        for (service, child) in &mut self.children {
            let is_well = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break status.success(),
                    Ok(None) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Ok(None) | Err(_) => break false,
                }
            };
            if !is_well {
                eprintln!("error: {} did not end in order", service.name());
                all_well = false;
            }
        }
        all_well
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // One that has ended cannot be killed, and that is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
