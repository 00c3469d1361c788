//! What one trainer prints: cut into lines, written to the log of the rank that it is at that time.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use futures::stream::{BoxStream, PollNext};
use futures::{StreamExt as _, stream};
use tokio::io::AsyncRead;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::{BytesCodec, FramedRead};
use tokio_util::sync::CancellationToken;

use super::logs::RankLog;

/// Lines kept for [`v1::Exited::last_lines`](diptych_proto::v1::Exited::last_lines).
pub(super) const LAST_LINES: usize = 20;
/// How long a pipe may be silent after its process has ended before the rest counts as somebody else's: something
/// that the process started may hold it open.
pub(super) const DRAIN: Duration = Duration::from_millis(50);
/// The longest line that is kept whole; longer ones are cut into pieces.
const LONGEST_LINE: usize = 16 << 10;

/// What is said to the keeper of one process's output, and what it answers.
#[derive(Debug)]
pub(super) struct Orders {
    /// The log of the rank that the process becomes: lines go there from then on.
    pub(super) logs: mpsc::UnboundedReceiver<RankLog>,
    /// The process has ended.
    pub(super) ended: CancellationToken,
    /// Then: the last lines of its last rank, as soon as all that it printed is read.
    pub(super) drained: oneshot::Sender<Vec<String>>,
}

/// Keeps what a process prints, and what still comes through its pipes after its end.
pub(super) fn keep(
    child: &mut Child,
    log: RankLog,
    orders: Orders,
) -> impl Future<Output = ()> + use<> {
    // What a process says of its own end stands last.
    let stdout_first = |(): &mut ()| PollNext::Left;
    let mut printed = stream::select_with_strategy(
        chunks(child.stdout.take(), false),
        chunks(child.stderr.take(), true),
        stdout_first,
    );
    let Orders {
        mut logs,
        ended,
        drained,
    } = orders;
    async move {
        let mut output = Output::new(log);
        let (mut open, mut drained, mut idle) = (true, Some(drained), None);
        while open || drained.is_some() {
            tokio::select! {
                biased;
                Some(log) = logs.recv() => output.switch(log),
                () = ended.cancelled(), if idle.is_none() => {
                    let rest = if open { DRAIN } else { Duration::ZERO };
                    idle = Some(Instant::now() + rest);
                }
                chunk = printed.next(), if open => match chunk {
                    Some((is_error, bytes)) => {
                        output.take(is_error, &bytes);
                        idle = idle.map(|_| Instant::now() + DRAIN);
                    }
                    None => {
                        output.finish();
                        open = false;
                        idle = idle.map(|_| Instant::now());
                    }
                },
                () = until(idle.filter(|_| drained.is_some())) => {
                    if let Some(drained) = drained.take() {
                        // Nobody may wait any more; the lines are in the log.
                        drop(drained.send(output.last.iter().cloned().collect()));
                    }
                }
            }
        }
    }
}

fn chunks(
    from: Option<impl AsyncRead + Send + 'static>,
    is_error: bool,
) -> BoxStream<'static, (bool, bytes::BytesMut)> {
    match from {
        // A broken pipe ends the output as a closed one does.
        Some(from) => FramedRead::new(Box::pin(from), BytesCodec::new())
            .take_while(|read| std::future::ready(read.is_ok()))
            .filter_map(move |read| std::future::ready(read.ok().map(|bytes| (is_error, bytes))))
            .boxed(),
        None => stream::empty().boxed(),
    }
}

/// Never, without a deadline.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The log of the rank that a process is, and its newest lines.
#[derive(Debug)]
struct Output {
    log: RankLog,
    last: VecDeque<String>,
    cutters: [Cutter; 2],
}

impl Output {
    fn new(log: RankLog) -> Self {
        Self {
            log,
            last: VecDeque::with_capacity(LAST_LINES),
            cutters: Default::default(),
        }
    }

    fn switch(&mut self, log: RankLog) {
        self.log = log;
        self.last.clear();
    }

    fn take(&mut self, is_error: bool, bytes: &[u8]) {
        let lines = self.cutters[usize::from(is_error)].push(bytes);
        self.keep(lines);
    }

    fn finish(&mut self) {
        let lines = self.cutters.iter_mut().flat_map(Cutter::finish).collect();
        self.keep(lines);
    }

    fn keep(&mut self, lines: Vec<String>) {
        for line in lines {
            self.log.append(&line);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
        self.log.flush();
    }
}

/// Bytes to lines: at newlines, and at [`LONGEST_LINE`] where none comes.
#[derive(Debug, Default)]
struct Cutter {
    rest: Vec<u8>,
}

impl Cutter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.rest.extend_from_slice(end);
                    lines.extend(self.cut_long());
                    lines.push(self.take());
                }
                None => self.rest.extend_from_slice(piece),
            }
        }
        lines.extend(self.cut_long());
        lines
    }

    fn finish(&mut self) -> Vec<String> {
        if self.rest.is_empty() {
            Vec::new()
        } else {
            vec![self.take()]
        }
    }

    fn cut_long(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while self.rest.len() > LONGEST_LINE {
            let tail = self.rest.split_off(LONGEST_LINE);
            lines.push(self.take());
            self.rest = tail;
        }
        lines
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.rest);
        String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_at_newlines_wherever_the_reads_fall() {
        let text = b"one\ntwo\r\n\nlast \xff";
        for step in 1..text.len() {
            let mut cutter = Cutter::default();
            let mut lines: Vec<String> = text
                .chunks(step)
                .flat_map(|piece| cutter.push(piece))
                .collect();
            lines.extend(cutter.finish());
            assert_eq!(
                lines,
                ["one", "two", "", "last \u{fffd}"],
                "reads of {step}"
            );
        }
    }

    #[test]
    fn endless_lines_are_cut_into_pieces() {
        let mut cutter = Cutter::default();
        let mut lines = cutter.push(&vec![b'x'; 2 * LONGEST_LINE + 5]);
        lines.extend(cutter.push(b"y\n"));
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [LONGEST_LINE, LONGEST_LINE, 6]
        );
    }
}
