//! Replacing the program (fs/exec.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Creds, Cx, SyscallWork, Task, TaskFlags};
use crate::Errno;
use crate::loader::NewImage;
use crate::signal::AltStack;
use crate::wait::PollEvents;

impl Cx {
    /// Puts a new image in place of the running program. The other threads are killed first.
    ///
    /// # Errors
    /// `EAGAIN` when the process is ending, or another thread does the same; before that, when there is no thread for the new
    /// address space. Then nothing has changed. Afterwards nothing can fail.
    pub async fn replace_image(&mut self, image: NewImage) -> Result<(), Errno> {
        // All that may fail comes first, so there is no failure past the point of no return.
        let mut context = image.mm.space().new_context().map_err(|_| Errno::EAGAIN)?;
        let old_tid = self.task.tid();
        let orig_rax = self.context.registers().orig_rax;
        *context.registers_mut() = platform::Registers { orig_rax, ..image.registers };
        self.become_only_thread().await?;
        self.release_futexes().await;
        self.swap_memory(image.mm, context);
        let group = &self.task.group;
        {
            let sighand = group.sighand().for_exec();
            *group.sighand.write() = sighand;
        }
        group.timers.forget_posix();
        self.task.signals.lock().alt_stack = AltStack::default();
        // Before descriptors are closed: their other ends may be waiting for that.
        self.task.group.has_execed.store(true, Ordering::Relaxed);
        // Linux unshares the table here too; the task's published copy is the second reference.
        if Arc::strong_count(&self.files) > 2 {
            self.files = self.files.duplicate();
        }
        drop(self.files.remove_if(|_, entry| entry.close_on_exec));
        let old = self.creds();
        self.settle_credentials(&old, &image.creds);
        *self.task.name.lock() = image.name;
        *self.task.group.exe.lock() = Some(image.file);
        *self.task.creds.write() = image.creds;
        if self.task.work().contains(SyscallWork::EXACT) {
            self.mm.disable_patching();
        }
        self.publish();
        self.task.group.inner.lock().execing = None;
        self.trace_exec(old_tid).await;
        Ok(())
    }

    fn swap_memory(&mut self, mm: Arc<crate::mm::Mm>, context: Box<dyn platform::Context>) {
        let old = std::mem::replace(&mut self.context, context);
        self.task.past_cpu_ns.fetch_add(old.cpu_time_ns(), Ordering::Relaxed);
        *self.task.interrupter.lock() = Some(self.context.interrupter());
        // Off the old memory before anybody may go on with it, or it is freed.
        drop(old);
        let old = std::mem::replace(&mut self.mm, mm);
        if let Some(shared) = &mut *self.task.shared.write() {
            shared.mm = self.mm.clone();
        }
        self.task.end_vfork();
        drop(old);
    }

    /// What a change of credentials by exec does to the rest (`begin_new_exec`, `commit_creds`).
    fn settle_credentials(&self, old: &Creds, new: &Creds) {
        let changed = (old.euid, old.egid) != (new.euid, new.egid) || new.permitted & !old.permitted != 0;
        let plain = new.uid == new.euid && new.gid == new.egid;
        self.task.group.dumpable.store(i32::from(plain && !changed), Ordering::Relaxed);
        if changed {
            self.task.parent_death_signal.store(0, Ordering::Relaxed);
            // PER_CLEAR_ON_SETID
            self.task.group.personality.fetch_and(!0x0074_0000, Ordering::Relaxed);
        }
    }

    /// Kills the other threads, waits until they are gone, and takes the first thread's number (`de_thread`).
    async fn become_only_thread(&mut self) -> Result<(), Errno> {
        let group = self.task.group.clone();
        {
            let mut inner = group.inner.lock();
            if inner.exiting.is_some() || inner.execing.is_some() {
                return Err(Errno::EAGAIN);
            }
            inner.execing = Some(Arc::downgrade(&self.task));
            for sibling in inner.threads.iter().filter(|thread| !Arc::ptr_eq(thread, &self.task)) {
                sibling.raise(TaskFlags::KILLED);
            }
        }
        let alone = || (group.inner.lock().threads.len() == 1).then_some(());
        let queues = [(&group.thread_gone, PollEvents::IN)];
        if self.task.wait_killable(&queues, alone).await.is_err() {
            group.inner.lock().execing = None;
            return Err(Errno::EAGAIN);
        }
        self.task.take_leaders_number();
        // Threads that CLONE_SIGHAND shared with are other processes: what they share stays theirs, see `for_exec`.
        group.inner.lock().leader_status = None;
        Ok(())
    }
}

impl Task {
    fn take_leaders_number(self: &Arc<Task>) {
        let mut pids = self.container.pids.inner.lock();
        let old = self.tid();
        if old != self.tgid() {
            pids.tasks.remove(&old);
            self.tid.store(self.tgid(), Ordering::Relaxed);
            pids.tasks.insert(self.tgid(), self.clone());
            pids.release(&self.group.pid_ns, old);
            if let Some(process) = pids.processes.get_mut(&self.tgid()) {
                process.leader = self.clone();
            }
        }
    }
}
