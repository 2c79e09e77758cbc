// The guest half of tests/qemu.rs: PID 1 that loads its modules, connects to the host and does what the host says, a line each.
#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static void die(const char *what)
{
	printf("init: %s: %m\n", what);
	fflush(stdout);
	reboot(RB_POWER_OFF);
}

static void load_modules(void)
{
	FILE *order = fopen("/modules/order", "r");
	char name[128], path[160];
	while (order && fscanf(order, "%127s", name) == 1) {
		snprintf(path, sizeof path, "/modules/%s", name);
		int fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			die(path);
		close(fd);
	}
}

static int vsock(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static int dial(unsigned port)
{
	struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = vsock();
	if (connect(fd, (void *)&host, sizeof host)) {
		close(fd);
		return -1;
	}
	return fd;
}

// Accepts one connection and sends back what comes until its end.
static void serve_echo(unsigned port)
{
	struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	int listener = vsock();
	if (bind(listener, (void *)&any, sizeof any) || listen(listener, 8))
		die("listen");
	if (fork())
		return; // the listener is there before the host is told so
	static char buffer[1 << 16];
	int fd = accept(listener, 0, 0);
	for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
		for (ssize_t sent = 0, n; sent < got; sent += n)
			if ((n = write(fd, buffer + sent, got - sent)) <= 0)
				_exit(1);
	_exit(0);
}

// Sends `count` MiB to the host and closes.
static void send_much(unsigned port, long count)
{
	static char buffer[1 << 20];
	if (fork())
		return;
	int fd = dial(port);
	for (size_t i = 0; i < sizeof buffer; i++)
		buffer[i] = i * 7 + (i >> 8);
	while (count-- > 0)
		for (size_t sent = 0; sent < sizeof buffer;) {
			ssize_t n = write(fd, buffer + sent, sizeof buffer - sent);
			if (n <= 0)
				_exit(1);
			sent += n;
		}
	_exit(0);
}

// Reads from the host until its end, and closes.
static void take_much(unsigned port)
{
	static char buffer[1 << 18];
	if (fork())
		return;
	int fd = dial(port);
	while (read(fd, buffer, sizeof buffer) > 0)
		;
	_exit(0);
}

static int count_cpus(void)
{
	char path[96];
	for (int cpu = 1; cpu < 8; cpu++) {
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
		int fd = open(path, O_WRONLY);
		if (fd >= 0) {
			write(fd, "1", 1);
			close(fd);
		}
	}
	return get_nprocs();
}

static long mem_total_kb(void)
{
	long kb = 0;
	FILE *file = fopen("/proc/meminfo", "r");
	fscanf(file, "MemTotal: %ld", &kb);
	fclose(file);
	return kb;
}

// The first word of a disk; "none" if there is no such disk.
static void read_disk(const char *name, char *word)
{
	char path[80];
	snprintf(path, sizeof path, "/dev/%s", name);
	int fd = open(path, O_RDONLY);
	memset(word, 0, 17);
	if (fd < 0 || read(fd, word, 16) <= 0)
		strcpy(word, "none");
	close(fd);
	word[strcspn(word, " \n")] = 0;
}

int main(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	mount("sysfs", "/sys", "sysfs", 0, 0);
	mount("dev", "/dev", "devtmpfs", 0, 0);
	signal(SIGCHLD, SIG_IGN);
	load_modules();
	int auto_online = open("/sys/devices/system/memory/auto_online_blocks", O_WRONLY);
	write(auto_online, "online_movable", 14);
	close(auto_online);
	int fd = dial(1024);
	if (fd < 0)
		die("the host");
	FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
	fprintf(out, "ready\n");
	fflush(out);
	char line[128], word[17];
	while (fgets(line, sizeof line, in)) {
		unsigned port;
		long n;
		char name[32];
		if (!strcmp(line, "cpus\n"))
			fprintf(out, "%d\n", count_cpus());
		else if (!strcmp(line, "memory\n"))
			fprintf(out, "%ld\n", mem_total_kb());
		else if (sscanf(line, "disk %31s", name) == 1)
			read_disk(name, word), fprintf(out, "%s\n", word);
		else if (sscanf(line, "nic %31s", name) == 1) {
			char path[80];
			int queues = -1;
			do
				snprintf(path, sizeof path, "/sys/class/net/%s/queues/rx-%d", name, ++queues);
			while (!access(path, F_OK));
			fprintf(out, "%d queues\n", queues);
		} else if (sscanf(line, "echo %u", &port) == 1)
			serve_echo(port), fprintf(out, "listening\n");
		else if (sscanf(line, "send %u %ld", &port, &n) == 2)
			send_much(port, n), fprintf(out, "sending\n");
		else if (sscanf(line, "take %u", &port) == 1)
			take_much(port), fprintf(out, "taking\n");
		else if (sscanf(line, "dial %u", &port) == 1)
			fprintf(out, "%s\n", (fd = dial(port)) < 0 ? "refused" : "connected"), close(fd);
		else if (!strcmp(line, "off\n"))
			break;
		else
			fprintf(out, "what?\n");
		fflush(out);
	}
	reboot(RB_POWER_OFF);
	return 0;
}
