//! Signals: queues, masks, dispositions, delivery.
