/* What bindgen reads: the libdpdk headers this crate binds, and declarations of the shim.
 *
 * The shim has one line for each inline function or function-like macro that is needed, because
 * bindgen can see neither. There is no logic here: decisions belong to datapath-dpdk.
 */
#ifndef VSW_SHIM_H
#define VSW_SHIM_H

#define _GNU_SOURCE /* fopencookie */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_bus_vdev.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_eth_vhost.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>
#include <rte_vhost.h>

/* DPDK 23.11 renamed the switch that says where `next` lives. */
#if defined(RTE_IOVA_IN_MBUF)
#define VSW_IOVA_IN_MBUF RTE_IOVA_IN_MBUF
#else
#define VSW_IOVA_IN_MBUF RTE_IOVA_AS_PA
#endif

/* struct rte_mbuf with its anonymous unions flattened.
 *
 * bindgen numbers anonymous members, and their nesting differs between 22.11 and 24.11, so fields
 * named through it would compile against one release only. shim.c asserts every offset.
 */
struct vsw_mbuf {
	void *buf_addr;
#if VSW_IOVA_IN_MBUF
	uint64_t buf_iova;
#else
	struct rte_mbuf *next;
#endif
	uint16_t data_off;
	uint16_t refcnt;
	uint16_t nb_segs;
	uint16_t port;
	uint64_t ol_flags;
	uint32_t packet_type;
	uint32_t pkt_len;
	uint16_t data_len;
	uint16_t vlan_tci;
	uint32_t hash_rss;
	uint32_t hash_hi;
	uint16_t vlan_tci_outer;
	uint16_t buf_len;
	struct rte_mempool *pool;
#if VSW_IOVA_IN_MBUF
	struct rte_mbuf *next;
#else
	uint64_t dynfield2;
#endif
	uint64_t tx_offload;
	struct rte_mbuf_ext_shared_info *shinfo;
	uint16_t priv_size;
	uint16_t timesync;
	uint32_t dynfield1[9];
};

/* Macros with casts or shifts in them, as constants bindgen can evaluate. */
static const uint16_t VSW_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const unsigned VSW_LCORE_ID_ANY = LCORE_ID_ANY;
static const int VSW_SOCKET_ID_ANY = SOCKET_ID_ANY;
static const uint64_t VSW_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t VSW_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t VSW_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t VSW_MBUF_F_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t VSW_MBUF_F_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t VSW_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t VSW_MBUF_F_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t VSW_MBUF_F_TX_UDP_SEG = RTE_MBUF_F_TX_UDP_SEG;
static const uint64_t VSW_MBUF_F_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t VSW_MBUF_F_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t VSW_MBUF_F_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t VSW_MBUF_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t VSW_MBUF_F_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t VSW_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t VSW_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint32_t VSW_DEV_INTR_RMV = RTE_ETH_DEV_INTR_RMV;
static const uint64_t VSW_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t VSW_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t VSW_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t VSW_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t VSW_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t VSW_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t VSW_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t VSW_RSS_INNER = RTE_ETH_RSS_LEVEL_INNERMOST;

int vsw_errno(void);
unsigned vsw_lcore_id(void);

struct rte_mbuf *vsw_pktmbuf_alloc(struct rte_mempool *mp);
void vsw_pktmbuf_free(struct rte_mbuf *m);
void vsw_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *direct);
uint16_t vsw_pktmbuf_data_room_size(struct rte_mempool *mp);
uint16_t vsw_mbuf_tso_segsz(const struct rte_mbuf *m);
uint64_t vsw_mbuf_tx_offload(uint64_t l2, uint64_t l3, uint64_t l4, uint64_t segment);
void vsw_mempool_cache_flush(struct rte_mempool *mp);
uint32_t vsw_mempool_object_bytes(const struct rte_mempool *mp);
const char *vsw_mempool_name(const struct rte_mempool *mp);
uint32_t vsw_mempool_size(const struct rte_mempool *mp);
int vsw_mempool_socket(const struct rte_mempool *mp);

uint16_t vsw_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t vsw_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
int vsw_eth_link_up(uint16_t port);
void vsw_eth_conf_intr(struct rte_eth_conf *conf, int rmv);
uint32_t vsw_eth_link_mbps(uint16_t port);

unsigned vsw_ring_enqueue_burst(struct rte_ring *r, void *const *objs, unsigned count);
unsigned vsw_ring_dequeue_burst(struct rte_ring *r, void **objs, unsigned count);

#endif
