//! `amqps`: verified by default, with an authority of one's own, and with a client's certificate.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::rabbit::Rabbit;
use postroom::{Amqp, BridgeError, Bridged, Bus, Event, StartError, WhenDown};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid(u32);

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

const PASSWORD: &str = "of-the-bundle";

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

/// An authority, a server of the name `localhost`, and a client.
fn certificates(directory: &Path) {
    let made = |arguments: &str| openssl(directory, arguments);
    let key = "-newkey rsa:2048 -nodes";
    made(&format!(
        "req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
    ));
    std::fs::write(directory.join("server.ext"), "subjectAltName=DNS:localhost").unwrap();
    std::fs::write(directory.join("client.ext"), "extendedKeyUsage=clientAuth").unwrap();
    for name in ["server", "client"] {
        made(&format!(
            "req -new {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        made(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        ));
    }
    made(&format!(
        "pkcs12 -export -inkey client.key -in client.pem -out client.p12 -passout pass:{PASSWORD}"
    ));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn publish_over(amqp: Amqp) -> Result<Bridged, StartError> {
    let amqp = amqp
        .prefix(Rabbit::unique("tls"))
        .export("ordering.#")
        .connect_timeout(Duration::from_secs(5))
        .when_down(WhenDown::Fail);
    let bus = Bus::builder("shop").bridge(amqp).start().await?;
    let receipt = bus.publish(Paid(1)).await.unwrap();
    bus.shutdown(Duration::from_secs(5)).await;
    Ok(receipt.bridged)
}

fn is_refused(result: &Result<Bridged, StartError>) -> bool {
    matches!(result, Err(StartError::Bridge(BridgeError::Unreachable(_))))
}

#[tokio::test]
async fn who_is_not_trusted_is_not_spoken_to() {
    let directory = std::env::temp_dir().join(Rabbit::unique("tls"));
    std::fs::create_dir(&directory).unwrap();
    certificates(&directory);
    let file = |name: &str| directory.join(name);
    let port = free_port();
    let settings = [
        "listeners.ssl.1 = 127.0.0.1:".to_owned() + &port.to_string(),
        format!("ssl_options.cacertfile = {}", file("ca.pem").display()),
        format!("ssl_options.certfile = {}", file("server.pem").display()),
        format!("ssl_options.keyfile = {}", file("server.key").display()),
        "ssl_options.verify = verify_peer".to_owned(),
        "ssl_options.fail_if_no_peer_cert = true".to_owned(),
    ];
    let options: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    let _rabbit = Rabbit::start_with(&options);
    let authority = std::fs::read_to_string(file("ca.pem")).unwrap();
    let client = std::fs::read(file("client.p12")).unwrap();
    let url = |host: &str| format!("amqps://guest:guest@{host}:{port}/%2f");
    let known = |host: &str| {
        Amqp::new(url(host))
            .certificate_authority(&authority)
            .client_certificate(client.clone(), PASSWORD)
    };

    let trusted = publish_over(known("localhost")).await;
    assert_eq!(trusted.unwrap(), Bridged::Unrouted);
    // The system's authorities do not know ours.
    let stranger = Amqp::new(url("localhost")).client_certificate(client.clone(), PASSWORD);
    assert!(is_refused(&publish_over(stranger).await));
    // The certificate is of another name.
    assert!(is_refused(&publish_over(known("127.0.0.1")).await));
    // The broker asks for a certificate of the client's.
    let nobody = Amqp::new(url("localhost")).certificate_authority(&authority);
    assert!(is_refused(&publish_over(nobody).await));
    std::fs::remove_dir_all(directory).unwrap();
}
