//! A trace as a drawing: its steps in their order, and what happened in each, over
//! the pages of the buffers. Rows come in; the drawing and its words come out.
//!
//! It is the folded form that [`Tell`](super::Tell) tells, and knows as little of
//! time: a step has one, what happens in it has an order.

use std::io;

use hmm_protocol::trace::Step;
use serde::Serialize;

use super::fold::Drawing;
use super::row::Row;
use super::steps::{Ended, Steps};
use super::tell::{self, Told};
use crate::html::clip;
use crate::results::Violation;

/// How much of a trace is drawn: so many steps, and so many events of all of them.
const MOST_STEPS: usize = 400;
const MOST_EVENTS: usize = 1500;

/// How long a name may be, and a line, in bytes. Those of an honest guest are short.
const LONGEST: usize = 200;
const LONGEST_LINE: usize = 1000;

/// How many broken rules of a step are told.
const MOST_BROKEN: usize = 20;

/// How much is told of a trace in words, in bytes.
const MOST_BYTES: usize = 32 << 10;

/// Draws a trace, row by row.
pub struct Draw {
    steps: Steps,
    drawing: Timeline,
}

/// A drawing, as far as it goes.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// The steps, in their order.
    pub steps: Vec<Drawn>,
    /// How many steps more there are.
    pub more_steps: u64,
    /// The same in words, and how many lines more there are.
    #[serde(skip)]
    pub text: String,
    /// See [`Timeline::text`].
    #[serde(skip)]
    pub more_lines: u64,
    /// What came to be told.
    #[serde(skip)]
    pub told: Told,
    /// How many events are drawn.
    #[serde(skip)]
    events: usize,
}

/// A step.
#[derive(Debug, Serialize)]
pub struct Drawn {
    /// The number by which rules name it.
    number: u32,
    /// Nanoseconds since the first one, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<u64>,
    /// The operation, and by whom.
    text: String,
    /// The operation alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    doing: Option<Step>,
    /// The rules that were broken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    broken: Vec<String>,
    /// What happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<Happened>,
    /// How many items more there are.
    #[serde(skip_serializing_if = "is_zero")]
    more: u64,
}

/// Something that happened, and what is told of it.
#[derive(Debug, Serialize)]
struct Happened {
    item: Drawing,
    text: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Draw {
    /// With what is known to be broken where it was.
    pub fn new(violations: &[Violation]) -> Self {
        Draw { steps: Steps::new(violations), drawing: Timeline::default() }
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// None of its own: what has no room is counted.
    pub fn push(&mut self, row: &Row) -> io::Result<()> {
        let drawing = &mut self.drawing;
        self.steps.push(row, &mut |step| drawing.take(&step))
    }

    /// The last row was pushed.
    ///
    /// # Errors
    /// As [`Draw::push`].
    pub fn finish(self) -> io::Result<Timeline> {
        let mut drawing = self.drawing;
        let (told, rest) = self.steps.finish(&mut |step| drawing.take(&step))?;
        drawing.told = told;
        for Violation { rule, step, text } in rest {
            drawing.tell(&[format!("! rule {rule}, step {step}: {text}")]);
        }
        Ok(drawing)
    }
}

impl Timeline {
    /// How many items are missing from the steps that are there; a run of what
    /// repeats is one.
    pub fn more_items(&self) -> u64 {
        self.steps.iter().map(|step| step.more).sum()
    }

    fn take(&mut self, step: &Ended<'_>) -> io::Result<()> {
        let mut text = Vec::new();
        tell::tell(&mut text, step)?;
        let text = String::from_utf8_lossy(&text);
        self.tell(&text.lines().collect::<Vec<_>>());
        let room = self.steps.len() < MOST_STEPS && self.events < MOST_EVENTS;
        if !room || self.more_steps > 0 {
            self.more_steps += 1;
            return Ok(());
        }
        let (all, mut more) = step.fold.drawn(step.buffers);
        let mut items = Vec::new();
        for (item, lines) in all {
            self.events += item.drawn();
            if self.events > MOST_EVENTS || lines.iter().any(|line| line.len() > LONGEST_LINE) {
                more += 1;
            } else {
                items.push(Happened { item, text: lines.join("\n") });
            }
        }
        let mut name = step.text.clone();
        cut(&mut name, LONGEST);
        let mut doing = step.doing.clone();
        if let Some(doing) = &mut doing {
            let pages = doing.pages.as_mut().map(|pages| &mut pages.buffer);
            [Some(&mut doing.op), doing.device.as_mut(), pages, Some(&mut doing.note)]
                .into_iter()
                .flatten()
                .for_each(|text| cut(text, LONGEST));
        }
        let mut broken: Vec<String> = step
            .violations
            .iter()
            .take(MOST_BROKEN)
            .map(|broken| format!("rule {}: {}", broken.rule, broken.text))
            .collect();
        broken.iter_mut().for_each(|text| cut(text, LONGEST));
        self.steps.push(Drawn {
            number: step.number,
            ns: step.ns,
            text: name,
            doing,
            broken,
            items,
            more,
        });
        Ok(())
    }

    fn tell(&mut self, lines: &[impl AsRef<str>]) {
        for line in lines {
            let mut line = line.as_ref().to_owned();
            cut(&mut line, LONGEST_LINE);
            if self.more_lines > 0 || self.text.len() + line.len() >= MOST_BYTES {
                self.more_lines += 1;
            } else {
                self.text.push_str(&line);
                self.text.push('\n');
            }
        }
    }
}

/// Cuts what no honest guest says.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        *text = clip(text, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::row::rows;

    const TRACE: &str = include_str!("../../tests/golden/run/trace/hmm.migrate.private.jsonl");

    fn drawn<'a>(lines: impl IntoIterator<Item = &'a str>) -> Timeline {
        let mut draw = Draw::new(&[]);
        for line in lines {
            let row = rows(line.as_bytes()).next().expect("a line").expect("a row");
            draw.push(&row).expect("memory");
        }
        draw.finish().expect("memory")
    }

    #[test]
    fn what_is_drawn_is_what_is_told() {
        let timeline = drawn(TRACE.lines());
        assert_eq!((timeline.told.steps, timeline.more_steps, timeline.more_lines), (7, 0, 0));
        assert!(timeline.text.contains("4 x fault, migrate_setup, MIGRATE buffer[0..4)"));
        let json = serde_json::to_value(&timeline).expect("plain data");
        let to_device = &json["steps"][3];
        assert_eq!(
            (&to_device["number"], &to_device["doing"]["pages"]["pages"]),
            (&4.into(), &4.into())
        );
        let migrate = &to_device["items"][1];
        assert_eq!(migrate["item"]["kind"], "invalidation");
        assert_eq!(migrate["item"]["lane"], "mm0");
        assert_eq!(migrate["item"]["at"]["pages"], serde_json::json!(["buffer", 0, 4]));
        assert_eq!(migrate["item"]["inside"][0]["lane"], "dmirror0");
        assert_eq!(
            migrate["text"],
            "MIGRATE buffer[0..4) owner dmirror0\n  callback dmirror0, collect"
        );
        let faults = &json["steps"][4]["items"][0]["item"];
        assert_eq!(
            (&faults["count"], faults["unit"].as_array().map(Vec::len)),
            (&4.into(), Some(3))
        );
        assert_eq!(faults["ways"][2]["spread"], "continues");
        assert_eq!(faults["ways"][2]["last"]["pages"], serde_json::json!(["buffer", 3, 4]));
    }

    #[test]
    fn there_is_an_end_of_it_and_it_is_told() {
        let step = |n: u64| {
            let (at, name) =
                (n << 20, if n.is_multiple_of(2) { "b".to_owned() } else { "x".repeat(10_000) });
            format!(
                r#"{{"seq":{n},"cpu":0,"tid":1,"tgid":1,"role":"test","probe":"step","step":{n},"doing":{{"op":"map","pages":{{"buffer":"{name}","first":0,"pages":4}},"address":{at}}},"t_ns":{n}}}"#
            )
        };
        let lines: Vec<String> = (1..1000).map(step).collect();
        let timeline = drawn(lines.iter().map(String::as_str));
        assert_eq!(timeline.steps.len() as u64 + timeline.more_steps, 999);
        assert!(timeline.more_lines > 900 && timeline.text.len() <= MOST_BYTES);
        let json = serde_json::to_string(&timeline).expect("plain data");
        assert!(json.len() < 1000 * MOST_STEPS, "{}", json.len());
    }

    #[test]
    fn events_without_any_order_are_drawn_as_far_as_there_is_room() {
        let map = r#"{"seq":0,"cpu":0,"tid":1,"tgid":1,"role":"test","probe":"step","step":1,"doing":{"op":"map","pages":{"buffer":"b","first":0,"pages":4096},"address":65536},"t_ns":1}"#;
        let event = |n: u64| {
            let (start, kind) =
                (65536 + 4096 * (n * 7 % 97), ["CLEAR", "UNMAP", "MIGRATE"][(n * n % 3) as usize]);
            let end = start + 4096 * (1 + n * n % 13);
            ["invalidate_start", "invalidate_end"].map(|probe| {
                format!(
                    r#"{{"seq":{n},"cpu":0,"tid":1,"tgid":1,"role":"test","probe":"{probe}","event":"{kind}","start":"{start:#x}","end":"{end:#x}","mm":"mm0","range":"r1","step":1}}"#
                )
            })
        };
        let step = map.replace("\"op\":\"map\"", "\"op\":\"unmap\"");
        let mut lines = vec![map.to_owned()];
        for n in 0..12 {
            lines.extend((0..1000).flat_map(|k| event(n * 1000 + k)));
            lines.push(step.clone());
        }
        let timeline = drawn(lines.iter().map(String::as_str));
        let left: u64 = timeline.steps.iter().map(|step| step.more).sum();
        assert!(left > 0 && timeline.more_steps > 0);
        let json = serde_json::to_string(&timeline).expect("plain data");
        assert!(json.len() < 400 << 10, "{}", json.len());
    }
}
