//! The shop as one process that is killed again and again (`kill -9`) while it takes orders: its queues are durable, and
//! each life goes on where the last one was cut off. The last one is left alone, and reports.

use std::error::Error;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::Args;
use crate::place::Premises;

/// How often it is killed.
const KILLS: u32 = 8;

/// How long a life lasts, in milliseconds. A new process may take over what was in the hands of the last one when the
/// leases of that have run out, which is after a second: some do not live to see it.
const LIFE_MS: std::ops::Range<u64> = 200..2500;

const POLL: Duration = Duration::from_millis(5);

pub async fn run(args: &Args, orders: usize) -> Result<bool, Box<dyn Error>> {
    let premises = Premises::new(args.place());
    premises.place.clear().await?;
    let place = premises.place.clone();
    // Orders come in during all of the lives.
    let whole = KILLS * (LIFE_MS.start + LIFE_MS.end) as u32 / 2;
    let pace = Duration::from_millis(whole.into()) / u32::try_from(orders.max(1))?;
    let mut arguments = args.handed_on(&place);
    arguments.push(format!("--life={}", pace.as_micros()));
    let start = || -> io::Result<Life> {
        let child = Command::new(std::env::current_exe()?)
            .args(&arguments)
            // Not as an argument, which everybody on the machine can read: it may hold a password.
            .envs(place.url().map(|url| ("ESHOP_DATABASE", url)))
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Life(child))
    };
    let mut rng = Rng::with_seed(args.seed);
    for kill in 1..=KILLS {
        let mut life = start()?;
        let end = Instant::now() + Duration::from_millis(rng.u64(LIFE_MS));
        while Instant::now() < end {
            if let Some(status) = life.0.try_wait()? {
                println!(
                    "killed {} times: it had done its work before the next",
                    kill - 1
                );
                return Ok(status.success());
            }
            tokio::time::sleep(POLL).await;
        }
        life.0.kill()?;
        life.0.wait()?;
    }
    println!("killed {KILLS} times on the way; the counts below are of the last life");
    let mut last = start()?;
    loop {
        if let Some(status) = last.0.try_wait()? {
            return Ok(status.success());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A process that ends when this one does.
struct Life(Child);

impl Drop for Life {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and that is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
