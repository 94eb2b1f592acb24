use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A RabbitMQ of a test's own, which it may stop: with name, ports and data that no other has.
pub(in crate::bridge) struct Node {
    directory: PathBuf,
    name: String,
    ports: [u16; 3],
    server: Option<Child>,
}

/// Where Debian's package has the scripts that do not ask for root.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

impl Node {
    /// Starts a node, and waits until it is up.
    pub(in crate::bridge) fn start() -> Self {
        let ports = free_ports();
        let directory = std::env::temp_dir().join(format!("postroom-rabbit-{}", ports[0]));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("plugins"), "[].").unwrap();
        let listeners = format!("listeners.tcp.1 = 127.0.0.1:{}\n", ports[0]);
        std::fs::write(directory.join("rabbit.conf"), listeners).unwrap();
        let name = format!("postroom-{}@localhost", ports[0]);
        let mut node = Self {
            directory,
            name,
            ports,
            server: None,
        };
        let log = std::fs::File::create(node.directory.join("out")).unwrap();
        let server = node
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("RabbitMQ is installed; scripts/test does it");
        node.server = Some(server);
        let pid = node.directory.join("pid");
        node.control(&["wait", "--timeout", "90", pid.to_str().unwrap()]);
        node.control(&["await_startup", "--timeout", "90"]);
        node
    }

    pub(in crate::bridge) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/%2f", self.ports[0])
    }

    /// Runs `rabbitmqctl`, which has to succeed.
    pub(in crate::bridge) fn control(&self, arguments: &[&str]) {
        let done = self
            .command("rabbitmqctl")
            .args(arguments)
            .output()
            .unwrap();
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {done:?}");
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(Path::new(SCRIPTS).join(script));
        let [amqp, distribution, mapper] = self.ports.map(|port| port.to_string());
        command
            .env("HOME", &self.directory)
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", amqp)
            .env("RABBITMQ_DIST_PORT", distribution)
            .env("ERL_EPMD_PORT", mapper)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", self.directory.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.directory.join("log"))
            .env("RABBITMQ_CONFIG_FILE", self.directory.join("rabbit"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.directory.join("plugins"),
            )
            .env("RABBITMQ_PID_FILE", self.directory.join("pid"));
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Without a panic: it may be dropped by one.
        let _ = self.command("rabbitmqctl").args(["stop"]).output();
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
        let _ = Command::new("epmd")
            .env("ERL_EPMD_PORT", self.ports[2].to_string())
            .arg("-kill")
            .output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Three that nobody has now. All are held until all are found.
fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref()
        .map(|listener| listener.local_addr().unwrap().port())
}
