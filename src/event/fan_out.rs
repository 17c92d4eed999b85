//! Several sinks as one.

use super::{AuditSink, Event, record_surely};

impl<A: AuditSink + ?Sized> AuditSink for Box<A> {
    fn record(&self, event: &Event) {
        (**self).record(event);
    }
}

/// Each event goes to all of them, in order; one that panics keeps it from no other.
impl<A: AuditSink> AuditSink for Vec<A> {
    fn record(&self, event: &Event) {
        self.iter().for_each(|sink| record_surely(sink, event));
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        /// Each event goes to all of them, in order; one that panics keeps it from no other.
        impl<$($name: AuditSink),+> AuditSink for ($($name,)+) {
            fn record(&self, event: &Event) {
                #[expect(non_snake_case, reason = "named like their types")]
                let ($($name,)+) = self;
                $(record_surely($name, event);)+
            }
        }
    };
}

tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::{Audit, EventKind};

    #[derive(Clone, Debug, Default)]
    struct Names(Arc<Mutex<Vec<&'static str>>>);

    impl AuditSink for Names {
        fn record(&self, event: &Event) {
            self.0.lock().unwrap().push(event.kind.name());
        }
    }

    #[derive(Debug)]
    struct Panics;

    impl AuditSink for Panics {
        fn record(&self, _: &Event) {
            panic!("the pipe is closed");
        }
    }

    #[test]
    fn every_sink_gets_every_event_though_another_panics() {
        let names = [(); 5].map(|()| Names::default());
        let [a, b, c, d, e] = names.clone();
        let boxed: Vec<Box<dyn AuditSink>> = vec![Box::new(Panics), Box::new(a), Box::new(b)];
        let audit = Audit::new((Panics, boxed, (c, Panics, d, e)));
        audit.emit(Event::new(EventKind::TokenCreated));
        audit.emit(Event::new(EventKind::AdminOverride));
        for sink in names {
            assert_eq!(*sink.0.lock().unwrap(), ["token.created", "admin.override"]);
        }
    }
}
