/* Sources of frames and counting sinks in the place of DPDK's `net_null` ports.
 *
 * Preloaded (LD_PRELOAD) into any program that is linked to libdpdk dynamically: when it starts a
 * port that the control file names, the port's burst functions are exchanged for the ones below.
 * So every switch gets the same frames at the same cost, and none counts its own work.
 *
 * C, compiled when the benchmark runs: bursts, mbufs and mempools are inline functions of DPDK's
 * headers, and the library must fit the libdpdk of this machine and into other people's programs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

/* The control file, shared with the benchmark: control.rs has the same numbers. */
#define PORTS 4
#define TXQS 8
#define KEPT 64
#define KEPT_BYTES 2048

struct counts { /* a cache line with one writer */
	uint64_t frames, bytes, bursts, digest, unused[4];
};

struct kept {
	uint64_t len;
	uint8_t bytes[KEPT_BYTES - 8];
};

struct port {
	/* What the benchmark says. */
	char device[64];   /* the port's name in DPDK; empty: none */
	char frames[192];  /* a file of frames, read once it is named; empty: nothing is received */
	uint64_t open;     /* 0: nothing is received yet */
	uint64_t rate;     /* frames a second, 0: as many as the switch asks for */
	uint64_t limit;    /* frames in all, 0: endless */
	uint64_t digest;   /* 1: the sink sums up what frames contain */
	uint64_t keep;     /* the sink keeps that many frames */
	uint64_t unused[3];
	/* What the library says. */
	uint64_t started;  /* how often the switch started the port */
	_Atomic uint64_t taken;  /* frames kept so far; may pass `keep` */
	uint64_t failed;   /* bursts for which the switch's mempool was dry */
	uint64_t loaded;   /* frames that the file had */
	uint64_t unused2[4];
	struct counts rx;
	struct counts tx[TXQS];
	struct kept kept[KEPT];
};
_Static_assert(offsetof(struct port, open) == 256, "control.rs");
_Static_assert(offsetof(struct port, started) == 320, "control.rs");
_Static_assert(offsetof(struct port, rx) == 384, "control.rs");
_Static_assert(offsetof(struct port, kept) == 960, "control.rs");
_Static_assert(sizeof(struct port) == 132032, "control.rs");

/* A file of frames: this, a length of 16 bits for each, then the frames, `stride` bytes apart. */
struct frames_head {
	uint64_t magic, count, stride, at;
};
#define MAGIC 0x73656d6172667376ull

struct source {
	struct port *port;
	struct rte_mempool *pool;
	const uint8_t *data;
	const uint16_t *lens;
	uint32_t count, stride, next;
	uint16_t id;
	uint64_t due;      /* TSC */
};

struct sink {
	struct port *port;
	struct counts *counts;
};

static struct port *ports;
static struct rte_mempool *pools[RTE_MAX_ETHPORTS];
static struct source sources[PORTS];
static struct sink sinks[PORTS][TXQS];
static void *rx_queues[PORTS][RTE_MAX_QUEUES_PER_PORT];
static void *tx_queues[PORTS][RTE_MAX_QUEUES_PER_PORT];

static void *fail(const char *what, const char *path)
{
	fprintf(stderr, "benchmark port: cannot %s %s\n", what, path);
	_exit(70);
}

/* Maps a file; `len` is set to its length. */
static void *map(const char *path, int writable, size_t *len)
{
	int fd = open(path, writable ? O_RDWR : O_RDONLY);
	struct stat stat;
	void *at;
	if (fd < 0 || fstat(fd, &stat))
		return fail("open", path);
	*len = stat.st_size;
	at = mmap(NULL, *len, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
	close(fd);
	return at == MAP_FAILED ? fail("map", path) : at;
}

/* Reads the frames into hugepages, if there are any left: half a million of them would otherwise
 * take the TLB away from the switch. */
static void load(struct source *source, const char *path)
{
	const size_t huge = 2 << 20;
	size_t len, room;
	struct frames_head *file = map(path, 0, &len);
	uint8_t *copy;
	if (len < sizeof *file || file->magic != MAGIC)
		fail("understand", path);
	room = (len + huge - 1) & ~(huge - 1);
	copy = mmap(NULL, room, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (copy == MAP_FAILED)
		copy = aligned_alloc(huge, room);
	if (!copy)
		fail("find memory for", path);
	memcpy(copy, file, len);
	source->lens = (const uint16_t *)(copy + sizeof *file);
	source->data = copy + file->at;
	source->count = file->count;
	source->stride = file->stride;
	munmap(file, len);
	source->port->loaded = source->count;
}

/* How many of `n` frames may be received now. */
static uint16_t allowed(struct source *source, uint16_t n)
{
	struct port *port = source->port;
	if (unlikely(!port->open)) {
		if (!source->data && port->frames[0])
			load(source, port->frames);
		return 0;
	}
	if (unlikely(port->limit)) {
		uint64_t left = port->limit - RTE_MIN(port->limit, port->rx.frames);
		n = RTE_MIN((uint64_t)n, left);
	}
	if (unlikely(port->rate && n)) {
		uint64_t now = rte_rdtsc(), hz = rte_get_tsc_hz();
		if (now < source->due)
			return 0;
		/* What was missed for longer than 10 ms is not caught up with. */
		source->due = RTE_MAX(source->due, now - hz / 100) + n * hz / port->rate;
	}
	return n;
}

static uint16_t receive(void *queue, struct rte_mbuf **mbufs, uint16_t n)
{
	struct source *source = queue;
	struct counts *rx;
	uint64_t bytes = 0;
	uint32_t next;

	if (unlikely(!source || !(n = allowed(source, n)) || !source->count))
		return 0;
	if (unlikely(rte_pktmbuf_alloc_bulk(source->pool, mbufs, n))) {
		source->port->failed++;
		return 0;
	}
	next = source->next;
	for (uint16_t i = 0; i < n; i++) {
		struct rte_mbuf *mbuf = mbufs[i];
		const uint8_t *from = source->data + (size_t)next * source->stride;
		uint8_t *to = rte_pktmbuf_mtod(mbuf, uint8_t *);
		uint16_t len = source->lens[next];
		/* Whole cache lines: both sides have room for them. */
		for (uint16_t at = 0; at < len; at += 64)
			memcpy(to + at, from + at, 64);
		mbuf->data_len = len;
		mbuf->pkt_len = len;
		mbuf->port = source->id;
		bytes += len;
		if (++next == source->count)
			next = 0;
	}
	source->next = next;
	rx = &source->port->rx;
	rx->frames += n;
	rx->bytes += bytes;
	rx->bursts++;
	return n;
}

/* Of the bytes in all segments: FNV-1a. */
static uint64_t hash(const struct rte_mbuf *mbuf)
{
	uint64_t sum = 0xcbf29ce484222325ull;
	for (; mbuf; mbuf = mbuf->next) {
		const uint8_t *bytes = rte_pktmbuf_mtod(mbuf, const uint8_t *);
		for (uint16_t i = 0; i < mbuf->data_len; i++)
			sum = (sum ^ bytes[i]) * 0x100000001b3ull;
	}
	return sum;
}

static void keep(struct port *port, struct rte_mbuf **mbufs, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++) {
		uint64_t at = atomic_fetch_add(&port->taken, 1);
		const void *bytes;
		struct kept *kept;
		uint32_t len;
		if (at >= port->keep || at >= KEPT)
			return;
		kept = &port->kept[at];
		len = RTE_MIN(mbufs[i]->pkt_len, sizeof kept->bytes);
		bytes = rte_pktmbuf_read(mbufs[i], 0, len, kept->bytes);
		if (bytes != kept->bytes)
			memcpy(kept->bytes, bytes, len);
		kept->len = mbufs[i]->pkt_len;
	}
}

static uint16_t transmit(void *queue, struct rte_mbuf **mbufs, uint16_t n)
{
	struct sink *sink = queue;
	struct port *port = sink->port;
	struct counts *tx = sink->counts;
	uint64_t bytes = 0;

	for (uint16_t i = 0; i < n; i++)
		bytes += mbufs[i]->pkt_len;
	if (unlikely(port->digest))
		for (uint16_t i = 0; i < n; i++)
			tx->digest += hash(mbufs[i]);
	if (unlikely(atomic_load_explicit(&port->taken, memory_order_relaxed) < port->keep))
		keep(port, mbufs, n);
	rte_pktmbuf_free_bulk(mbufs, n);
	tx->frames += n;
	tx->bytes += bytes;
	tx->bursts++;
	return n;
}

/* Remembers which mempool a port receives into. */
int rte_eth_rx_queue_setup(uint16_t id, uint16_t queue, uint16_t descriptors, unsigned int socket,
			   const struct rte_eth_rxconf *conf, struct rte_mempool *pool)
{
	static __typeof__(&rte_eth_rx_queue_setup) original;
	if (!original)
		original = dlsym(RTLD_NEXT, "rte_eth_rx_queue_setup");
	if (queue == 0 && id < RTE_MAX_ETHPORTS)
		pools[id] = pool;
	return original(id, queue, descriptors, socket, conf, pool);
}

/* Exchanges the burst functions of a port that the control file names. */
int rte_eth_dev_start(uint16_t id)
{
	static __typeof__(&rte_eth_dev_start) original;
	const char *path = getenv("VSWITCH_BENCH_PORTS");
	char name[RTE_ETH_NAME_MAX_LEN];
	size_t len;
	int code;
	if (!original)
		original = dlsym(RTLD_NEXT, "rte_eth_dev_start");
	code = original(id);
	if (code || !path || rte_eth_dev_get_name_by_port(id, name))
		return code;
	if (!ports)
		ports = map(path, 1, &len);
	for (unsigned int n = 0; n < PORTS; n++) {
		struct port *port = &ports[n];
		struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[id];
		struct source *source = &sources[n];
		if (strcmp(port->device, name))
			continue;
		source->port = port;
		source->id = id;
		source->pool = pools[id];
		rx_queues[n][0] = source; /* further queues receive nothing */
		for (unsigned int q = 0; q < RTE_MAX_QUEUES_PER_PORT; q++) {
			struct sink *sink = &sinks[n][q % TXQS];
			sink->port = port;
			sink->counts = &port->tx[q % TXQS];
			tx_queues[n][q] = sink;
		}
		/* Arrays of our own: the device needs its queues when it is closed. */
		ops->rxq.data = rx_queues[n];
		ops->txq.data = tx_queues[n];
		ops->rx_pkt_burst = receive;
		ops->tx_pkt_burst = transmit;
		port->started++;
	}
	return code;
}
