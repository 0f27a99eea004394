/* One line a function; see shim.h. */
#include "shim.h"

#define SAME(field) SAME_AS(field, field)
#define SAME_AS(ours, theirs)                                                                      \
	_Static_assert(offsetof(struct vsw_mbuf, ours) == offsetof(struct rte_mbuf, theirs) &&     \
			       sizeof(((struct vsw_mbuf *)0)->ours) ==                             \
				       sizeof(((struct rte_mbuf *)0)->theirs),                     \
		       "struct rte_mbuf has another layout than shim.h expects: " #theirs)

SAME(buf_addr);
SAME(data_off);
SAME(refcnt);
SAME(nb_segs);
SAME(port);
SAME(ol_flags);
SAME(packet_type);
SAME(pkt_len);
SAME(data_len);
SAME(vlan_tci);
SAME_AS(hash_rss, hash.rss);
SAME_AS(hash_hi, hash.fdir.hi);
SAME(vlan_tci_outer);
SAME(buf_len);
SAME(pool);
SAME(next);
SAME(tx_offload);
SAME(shinfo);
SAME(priv_size);
SAME(timesync);
SAME(dynfield1);
_Static_assert(sizeof(struct vsw_mbuf) <= sizeof(struct rte_mbuf), "vsw_mbuf is larger than rte_mbuf");

int vsw_errno(void) { return rte_errno; }
unsigned vsw_lcore_id(void) { return rte_lcore_id(); }

struct rte_mbuf *vsw_pktmbuf_alloc(struct rte_mempool *mp) { return rte_pktmbuf_alloc(mp); }
void vsw_pktmbuf_free(struct rte_mbuf *m) { rte_pktmbuf_free(m); }
void vsw_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *direct) { rte_pktmbuf_attach(indirect, direct); }
uint16_t vsw_pktmbuf_data_room_size(struct rte_mempool *mp) { return rte_pktmbuf_data_room_size(mp); }
uint16_t vsw_mbuf_tso_segsz(const struct rte_mbuf *m) { return m->tso_segsz; }
uint64_t vsw_mbuf_tx_offload(uint64_t l2, uint64_t l3, uint64_t l4, uint64_t segment) { return rte_mbuf_tx_offload(l2, l3, l4, segment, 0, 0, 0); }
void vsw_mempool_cache_flush(struct rte_mempool *mp) { rte_mempool_cache_flush(NULL, mp); }
uint32_t vsw_mempool_object_bytes(const struct rte_mempool *mp) { return mp->header_size + mp->elt_size + mp->trailer_size; }
const char *vsw_mempool_name(const struct rte_mempool *mp) { return mp->name; }
uint32_t vsw_mempool_size(const struct rte_mempool *mp) { return mp->size; }
int vsw_mempool_socket(const struct rte_mempool *mp) { return mp->socket_id; }

uint16_t vsw_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) { return rte_eth_rx_burst(port, queue, mbufs, count); }
uint16_t vsw_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) { return rte_eth_tx_burst(port, queue, mbufs, count); }
void vsw_eth_conf_intr(struct rte_eth_conf *conf, int rmv) { conf->intr_conf.rmv = !!rmv; }
int vsw_eth_link_up(uint16_t port) { struct rte_eth_link link; return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP; }
uint32_t vsw_eth_link_mbps(uint16_t port) { struct rte_eth_link link; return rte_eth_link_get_nowait(port, &link) == 0 ? link.link_speed : 0; }

unsigned vsw_ring_enqueue_burst(struct rte_ring *r, void *const *objs, unsigned count) { return rte_ring_enqueue_burst(r, objs, count, NULL); }
unsigned vsw_ring_dequeue_burst(struct rte_ring *r, void **objs, unsigned count) { return rte_ring_dequeue_burst(r, objs, count, NULL); }
