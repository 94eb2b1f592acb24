//! The life of the publisher: what is on its way on one channel after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

use super::{Confirmed, Job, Publication, Publisher};
use crate::bridge::flights::Flights;
use crate::bridge::link::LinkState;
use crate::bridge::{Shared, explained, topology};
use crate::ports::crash_point;
use crate::supervisor::Stop;

/// What is on its way on one channel. Dropped for whatever reason, it goes back to be written again.
struct Sky<'a, F: Future> {
    publisher: &'a Publisher,
    flights: Flights<F>,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Why RabbitMQ closed the channel, and not the connection.
    closed: Option<String>,
}

impl<F: Future> Drop for Sky<'_, F> {
    fn drop(&mut self) {
        let jobs = self.jobs.drain(..).flatten().collect();
        self.publisher.put_back(jobs, self.closed.as_deref());
    }
}

/// How one publication ended on its channel.
struct Landed {
    seat: usize,
    answer: lapin::Result<Answer>,
}

/// What lapin answered for one: the returned message may be another's.
struct Answer {
    is_ack: bool,
    returned: Option<Box<Route>>,
}

impl From<Confirmation> for Answer {
    fn from(confirmation: Confirmation) -> Self {
        let is_ack = !confirmation.is_nack();
        let returned = confirmation.take_message().map(|message| {
            let (exchange, key) = (message.exchange.as_str(), message.routing_key.as_str());
            Box::new(route_of(&message.properties, exchange, key))
        });
        Self { is_ack, returned }
    }
}

/// Names a publication in a return: the id alone may be on its way several times.
type Route = (String, String, String);

fn route_of(properties: &BasicProperties, exchange: &str, routing_key: &str) -> Route {
    let id = properties.message_id().as_ref();
    (
        id.map_or_else(String::new, ToString::to_string),
        exchange.to_owned(),
        routing_key.to_owned(),
    )
}

/// The returns that no publication was judged by yet, and how many there are of each: one id may be on its way twice, as
/// when its first publisher has given up and its relay tries again.
#[derive(Default)]
struct Returned(HashMap<Route, u32>);

impl Returned {
    fn note(&mut self, route: Route) {
        *self.0.entry(route).or_default() += 1;
    }

    /// Whether one of them is of this publication; then it is one fewer.
    fn take(&mut self, publication: &Publication) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let route = route_of(
            &publication.properties,
            publication.exchange.as_str(),
            publication.routing_key.as_str(),
        );
        let Some(left) = self.0.get_mut(&route) else {
            return false;
        };
        *left -= 1;
        if *left == 0 {
            self.0.remove(&route);
        }
        true
    }
}

/// One life of the publisher: on one channel after another, until the connection fails or everything is published
/// at a stop. That a channel is closed is the fault of what was published on it, not of the publisher.
pub(in crate::bridge) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), String> {
    let publisher = &shared.publisher;
    let connection = tokio::select! {
        connection = publisher.link.connected() => connection,
        () = stop.asked() => return Ok(()),
    };
    let Some(connection) = connection else {
        return Ok(());
    };
    loop {
        let plan = shared.base_plan();
        let declared = topology::apply(&connection, &plan, shared.amqp.topology);
        let declared = shared.opened(async { Ok::<_, String>(declared.await) });
        let declared = declared.await?;
        shared.note_topology(&shared.part("publisher"), declared.as_ref().err());
        declared.map_err(explained)?;
        let channel = shared.opened(open(&connection)).await?;
        let Err(error) = fly(publisher, &channel, &mut stop).await? else {
            return Ok(());
        };
        tracing::warn!(link = %publisher.link.name, %error, "RabbitMQ closed the channel for what was published");
    }
}

/// Publishes on one channel. What RabbitMQ closed the channel for is told apart from a lost connection.
async fn fly(
    publisher: &Publisher,
    channel: &Channel,
    stop: &mut Stop,
) -> Result<Result<(), lapin::Error>, String> {
    let mut link = publisher.link.watch();
    let mut sky = Sky {
        publisher,
        flights: Flights::new(),
        jobs: Vec::new(),
        free: Vec::new(),
        closed: None,
    };
    let mut returned = Returned::default();
    let mut landed: Vec<Landed> = Vec::new();
    let mut most = publisher.places as usize;
    let mut stopping = false;
    loop {
        let is_blocked = match &*link.borrow_and_update() {
            LinkState::Up { blocked, .. } => blocked.is_some(),
            LinkState::Down { why } => return Err(why.to_string()),
        };
        while !is_blocked && let Some(job) = publisher.take(sky.flights.len(), &mut most) {
            let flight = {
                let publication = Arc::clone(&job.publication);
                let seat = sky.free.pop().unwrap_or(sky.jobs.len());
                if seat == sky.jobs.len() {
                    sky.jobs.push(None);
                }
                sky.jobs[seat] = Some(job);
                async move {
                    let answer = write(channel, &publication).await;
                    Landed { seat, answer }
                }
            };
            sky.flights.add(flight);
        }
        sky.flights.pass(|one| landed.push(one));
        if let Some(error) = settle(
            publisher,
            &mut sky.jobs,
            &mut sky.free,
            &mut landed,
            &mut returned,
        ) {
            if error.is_amqp_soft_error() {
                sky.closed = Some(explained(&error));
                return Ok(Err(error));
            }
            return Err(explained(error));
        }
        if stopping && sky.flights.len() == 0 && publisher.is_idle() {
            return Ok(Ok(()));
        }
        tokio::select! {
            () = publisher.wake.notified() => {}
            () = sky.flights.woken() => {}
            _ = link.changed() => {}
            () = stop.asked(), if !stopping => stopping = true,
        }
    }
}

async fn open(connection: &lapin::Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn write(channel: &Channel, publication: &Publication) -> lapin::Result<Answer> {
    let confirm = channel
        .basic_publish(
            publication.exchange.clone(),
            publication.routing_key.clone(),
            BasicPublishOptions {
                mandatory: true,
                immediate: false,
            },
            &publication.body,
            publication.properties.clone(),
        )
        .await?;
    crash_point("before-confirm");
    Ok(confirm.await?.into())
}

/// Answers those who wait, and tells of the channel's failure. lapin hands a returned message to whichever confirm
/// comes first: so first all returns of the pass are noted, and then each publication is judged by its own.
fn settle(
    publisher: &Publisher,
    jobs: &mut [Option<Job>],
    free: &mut Vec<usize>,
    landed: &mut Vec<Landed>,
    returned: &mut Returned,
) -> Option<lapin::Error> {
    for one in landed.iter_mut() {
        if let Ok(answer) = &mut one.answer
            && let Some(route) = answer.returned.take()
        {
            returned.note(*route);
        }
    }
    let counts = &publisher.counts;
    let mut failed = None;
    for Landed { seat, answer } in landed.drain(..) {
        let confirmed = match answer {
            Ok(Answer { is_ack: false, .. }) => Confirmed::Nacked,
            Ok(_) => Confirmed::Routed,
            Err(error) => {
                // It keeps its seat, and goes back in the end. Why the channel was closed is told to one of them.
                failed = failed
                    .filter(lapin::Error::is_amqp_soft_error)
                    .or(Some(error));
                continue;
            }
        };
        let Some(job) = jobs[seat].take() else {
            continue;
        };
        free.push(seat);
        let was_returned = returned.take(&job.publication);
        let (confirmed, count) = match (confirmed, was_returned) {
            (Confirmed::Nacked, _) => (Confirmed::Nacked, &counts.nacked),
            (_, true) => (Confirmed::Returned, &counts.returned),
            _ => (Confirmed::Routed, &counts.confirmed),
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Who waited may have given up.
        let _ = job.done.send(Ok(confirmed));
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_return_is_of_one_publication_though_they_have_one_id() {
        let publication = |key: &str| Publication {
            exchange: "commands".into(),
            routing_key: key.into(),
            properties: BasicProperties::default().with_message_id("7".into()),
            body: Arc::default(),
        };
        let (mail, pay) = (publication("mail"), publication("pay"));
        let mut returned = Returned::default();
        let route = |publication: &Publication| {
            let key = publication.routing_key.as_str();
            route_of(&publication.properties, "commands", key)
        };
        for _ in 0..2 {
            returned.note(route(&mail));
        }
        let judged = [&mail, &pay, &mail, &mail].map(|one| returned.take(one));
        assert_eq!(judged, [true, false, true, false]);
        returned.note(route(&pay));
        assert!(returned.take(&pay) && returned.0.is_empty());
    }
}
