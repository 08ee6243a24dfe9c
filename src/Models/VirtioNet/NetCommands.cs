using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>What each command does. The data is a copy, and not trusted: its length has to be right, and one that is wrong changes nothing.</summary>
internal sealed class NetCommands(VirtioNetDevice device)
{
    private const int MostRxModes = ReceiveFilter.ModeCount;
    // le32 hash_types, le16 mask, le16 unclassified_queue; the table; le16 max_tx_vq, u8 hash_key_length; the key (5.1.6.5.7.1).
    private const int RssHead = 8;
    private const int RssTail = 3;

    /// <summary>The most bytes of an answer.</summary>
    internal const int MostAnswer = Coalescing.Bytes;

    // VIRTIO_NET_CTRL_NOTF_COAL and its commands; le16 vq_index, le16 reserved before the parameters (5.1.6.5.9).
    private const byte Coalesce = 6;
    private const byte CoalesceTransmit = 0;
    private const byte CoalesceReceive = 1;
    private const byte CoalesceQueue = 2;
    private const byte CoalescingOfQueue = 3;
    private const int QueueBytes = 4;

    /// <summary>What the driver took.</summary>
    internal VirtioFeatures Features { get; set; }

    /// <summary>Which user of the device the driver is: a command of one before changes nothing.</summary>
    internal int Generation { get; set; }

    /// <summary>Does one; false is answered VIRTIO_NET_ERR.</summary>
    internal bool TryDo(byte @class, byte command, ReadOnlySpan<byte> data) => (@class, command) switch
    {
        (0, < MostRxModes) => Has(command < 2 ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA) && TrySetMode(command, data),
        (1, 0) => Has(VIRTIO_NET_F_CTRL_RX) && TrySetTables(data),
        (1, 1) => Has(VIRTIO_NET_F_CTRL_MAC_ADDR) && TrySetAddress(data),
        (2, 0 or 1) => Has(VIRTIO_NET_F_CTRL_VLAN) && TrySetVlan(data, command == 0),
        (3, 0) => Has(VIRTIO_NET_F_GUEST_ANNOUNCE) && data.IsEmpty && device.Settings.TryAcknowledge(Generation),
        (4, 0) => Has(VIRTIO_NET_F_MQ) && TrySetPairs(data),
        (4, 1) => Has(VIRTIO_NET_F_RSS) && TrySetRss(data),
        (4, 2) => Has(VIRTIO_NET_F_HASH_REPORT) && TrySetHash(data),
        (5, 0) => Has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && data.Length == sizeof(ulong)
            && device.Settings.TrySetOffloads(BinaryPrimitives.ReadUInt64LittleEndian(data), Generation),
        (Coalesce, CoalesceTransmit) => Has(VIRTIO_NET_F_NOTF_COAL) && TryCoalesce(1, data),
        (Coalesce, CoalesceReceive) => Has(VIRTIO_NET_F_NOTF_COAL) && TryCoalesce(0, data),
        (Coalesce, CoalesceQueue) => Has(VIRTIO_NET_F_VQ_NOTF_COAL) && TryCoalesceQueue(data),
        _ => false,
    };

    /// <summary>Whether a command is answered by more than whether it was done.</summary>
    internal static bool HasAnswer(byte @class, byte command) => (@class, command) == (Coalesce, CoalescingOfQueue);

    /// <summary>Does the one that <see cref="HasAnswer"/>; false is answered VIRTIO_NET_ERR.</summary>
    /// <param name="data">What belongs to it.</param>
    /// <param name="answer">Where to; <see cref="MostAnswer"/> bytes.</param>
    internal bool TryAnswer(ReadOnlySpan<byte> data, Span<byte> answer)
    {
        if (!Has(VIRTIO_NET_F_VQ_NOTF_COAL) || data.Length != QueueBytes || !TryReadQueue(data, out var queue))
            return false;
        device.Coalescing.Get(queue).Write(answer);
        return true;
    }

    private bool Has(int feature) => Features.Has(feature);

    private bool TrySetMode(int mode, ReadOnlySpan<byte> data)
    {
        if (data.Length != 1 || data[0] > 1)
            return false;
        var on = data[0] == 1;
        device.Settings.Change((ReceiveFilter filter) => filter.WithMode(mode, on), Generation);
        return true;
    }

    private bool TrySetTables(ReadOnlySpan<byte> data)
    {
        if (!TryReadTable(ref data, out var unicast) || !TryReadTable(ref data, out var multicast) || !data.IsEmpty)
            return false;
        device.Settings.Change((ReceiveFilter filter) => filter with { Unicast = unicast, Multicast = multicast }, Generation);
        return true;
    }

    // le32 entries; u8 macs[entries][6]. More than there is room for is all of them (5.1.6.5.2).
    private static bool TryReadTable(ref ReadOnlySpan<byte> data, out ulong[]? table)
    {
        table = null;
        if (data.Length < sizeof(uint))
            return false;
        var entries = BinaryPrimitives.ReadUInt32LittleEndian(data);
        data = data[sizeof(uint)..];
        if (entries > (uint)data.Length / MacSize)
            return false;
        var bytes = data[..((int)entries * MacSize)];
        data = data[bytes.Length..];
        if (entries > ReceiveFilter.MostAddresses)
            return true;
        table = new ulong[entries];
        for (var i = 0; i < table.Length; i++)
            table[i] = ReadMac(bytes[(i * MacSize)..]);
        return true;
    }

    private bool TrySetAddress(ReadOnlySpan<byte> data)
    {
        if (data.Length != MacSize)
            return false;
        var mac = ReadMac(data);
        if (mac == 0 || EthernetFrame.IsMulticast(mac))
            return false;
        device.Settings.Change((ReceiveFilter filter) => filter with { Mac = mac }, Generation);
        return true;
    }

    private bool TrySetVlan(ReadOnlySpan<byte> data, bool on)
    {
        if (data.Length != sizeof(ushort) || BinaryPrimitives.ReadUInt16LittleEndian(data) is var vlan && vlan >= ReceiveFilter.VlanCount)
            return false;
        device.Settings.Change((ReceiveFilter filter) => filter.WithVlan(vlan, on), Generation);
        return true;
    }

    private bool TrySetPairs(ReadOnlySpan<byte> data)
    {
        if (data.Length != sizeof(ushort) || BinaryPrimitives.ReadUInt16LittleEndian(data) is var pairs && (pairs == 0 || pairs > device.QueuePairs))
            return false;
        // The last command says which way of steering is in force (5.1.6.5.4); a hash is reported as before.
        device.Settings.Change((FlowSteering steering) => steering with { Pairs = pairs, Table = null }, Generation);
        return true;
    }

    private bool TrySetRss(ReadOnlySpan<byte> data)
    {
        if (data.Length < RssHead)
            return false;
        var types = BinaryPrimitives.ReadUInt32LittleEndian(data);
        var entries = BinaryPrimitives.ReadUInt16LittleEndian(data[4..]) + 1;
        var unclassified = BinaryPrimitives.ReadUInt16LittleEndian(data[6..]);
        if (entries > MostTableEntries || !BitOperations.IsPow2(entries) || unclassified >= device.QueuePairs
            || data.Length < RssHead + (entries * sizeof(ushort)) + RssTail)
            return false;
        var table = new ushort[entries];
        for (var i = 0; i < entries; i++)
        {
            table[i] = BinaryPrimitives.ReadUInt16LittleEndian(data[(RssHead + (i * sizeof(ushort)))..]);
            if (table[i] >= device.QueuePairs)
                return false;
        }

        data = data[(RssHead + (entries * sizeof(ushort)))..];
        var pairs = BinaryPrimitives.ReadUInt16LittleEndian(data);
        if (pairs == 0 || pairs > device.QueuePairs || !TryReadHash(types, data[sizeof(ushort)..], out var hash))
            return false;
        device.Settings.Change((FlowSteering _) => new FlowSteering(pairs) { Hash = hash, Table = table, Unclassified = unclassified }, Generation);
        return true;
    }

    private bool TrySetHash(ReadOnlySpan<byte> data)
    {
        // In the place of the table's fields are four words that are reserved: Linux's driver has its number of pairs there.
        if (data.Length < RssHead + sizeof(uint) + 1
            || !TryReadHash(BinaryPrimitives.ReadUInt32LittleEndian(data), data[(RssHead + sizeof(uint))..], out var hash))
            return false;
        device.Settings.Change((FlowSteering steering) => steering with { Hash = hash, Table = null }, Generation);
        return true;
    }

    private bool TryCoalesce(int kind, ReadOnlySpan<byte> data)
    {
        if (data.Length != Coalescing.Bytes)
            return false;
        device.Coalescing.SetKind(kind, Coalescing.Read(data), Features, Generation);
        return true;
    }

    private bool TryCoalesceQueue(ReadOnlySpan<byte> data)
    {
        if (data.Length != QueueBytes + Coalescing.Bytes || !TryReadQueue(data, out var queue))
            return false;
        device.Coalescing.Set(queue, Coalescing.Read(data[QueueBytes..]), Generation);
        return true;
    }

    // An enabled receive or transmit queue; what is reserved is not looked at.
    private bool TryReadQueue(ReadOnlySpan<byte> data, out int queue)
    {
        queue = BinaryPrimitives.ReadUInt16LittleEndian(data);
        return queue < device.Coalescing.QueuesOf(Features) && device.IsEnabled(queue);
    }

    // u8 hash_key_length; u8 hash_key_data[hash_key_length]. A driver may send more than that, as Linux's does since 6.15 and in what was taken back from there.
    private static bool TryReadHash(uint types, ReadOnlySpan<byte> data, out FlowHash hash)
    {
        hash = null!;
        if ((types & ~HashTypes) != 0 || data[0] > MostKeyBytes || data.Length < data[0] + 1)
            return false;
        hash = new FlowHash(types, data.Slice(1, data[0]));
        return true;
    }
}
