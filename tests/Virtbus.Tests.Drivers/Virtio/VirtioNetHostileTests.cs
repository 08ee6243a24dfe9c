using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioNet;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A network device that hands frames back as it likes, seeded: nothing but whole frames comes out, and nothing throws.</summary>
public sealed class VirtioNetHostileTests
{
    private const int Answers = 100_000;
    private const int RingSize = 32;
    private const int HeaderSize = 12;
    private static readonly VirtioFeatures Offloads = VirtioFeatures.Of(
        VirtioNetConfig.VIRTIO_NET_F_GUEST_CSUM, VirtioNetConfig.VIRTIO_NET_F_GUEST_TSO4, VirtioNetConfig.VIRTIO_NET_F_GUEST_TSO6, VirtioNetConfig.VIRTIO_NET_F_GUEST_USO4);

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    public async Task Mutated_frames_are_dropped_or_break_the_queue(bool isMergeable, bool hasOffloads)
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
        var random = new Random(20_251_130);
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var frames = new Frames();
        var broken = 0;
        var answers = 0;
        var (lengths, misfits) = (0L, 0L);
        while (answers < Answers)
        {
            var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioNetConfig.VIRTIO_NET_F_MAC);
            var transport = new FakeTransport
            {
                VirtioType = 1,
                DeviceFeatures = features | (isMergeable ? VirtioFeatures.Of(VirtioNetConfig.VIRTIO_NET_F_MRG_RXBUF) : default) | (hasOffloads ? Offloads : default),
                Config = [2, 0, 0, 0, 0, 1],
                QueueSize = RingSize,
            };
            var port = new DmaPort("device", transport.Group) { IsBusMaster = true };
            Assert.True(transport.Group.TryClaimForDriver("driver", out _));
            var device = await rig.Virtio.AddAsync(parent, transport);
            Assert.Equal("virtio_net", device.Driver?.Name);
            var there = device.Children.OfType<NetDevice>().Single();
            there.AddReceiver(frames);
            var queue = device.Queues[0];
            for (var used = 0; !queue.IsBroken && used < 5000; answers++)
            {
                used += Answer(port, queue.Layout, random, used, isMergeable, hasOffloads);
                queue.Interrupt();
            }

            broken += queue.IsBroken ? 1 : 0;
            lengths += there.Statistics.ReceiveLengthErrors;
            misfits += there.Statistics.ReceiveFrameErrors;
            await rig.Virtio.RemoveAsync(device).In();
            Assert.Equal(0, port.Faults);
        }

        Assert.True(broken > 10, $"{broken} broken");
        Assert.True(frames.Count > 10_000, $"{frames.Count} frames");
        Assert.True(lengths > 100 && misfits > 100, $"{lengths} {misfits} errors");
        Assert.Equal(hasOffloads, frames.Longest > 1518);
        Assert.Equal(hasOffloads, frames.Open > 100);
    }

    // The buffers are used in the order in which they were offered; mostly right.
    private static int Answer(DmaPort port, in RingLayout layout, Random random, int used, bool isMergeable, bool hasOffloads)
    {
        var isWrong = random.Next(100) == 0;
        var buffers = isMergeable && random.Next(3) == 0 ? random.Next(1, 5) : 1;
        Span<byte> bytes = stackalloc byte[HeaderSize];
        for (var i = 0; i < buffers; i++)
        {
            var place = (ulong)((used + i) % RingSize);
            if (!port.TryRead(new Iova(layout.DriverArea.Value + 4 + (2 * place)), bytes[..2]))
                continue;
            var head = BinaryPrimitives.ReadUInt16LittleEndian(bytes);
            port.TryRead(new Iova(layout.DescriptorArea.Value + (16 * (ulong)head)), bytes);
            var (address, length) = (BinaryPrimitives.ReadUInt64LittleEndian(bytes), BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]));
            if (i == 0)
            {
                bytes.Clear();
                BinaryPrimitives.WriteUInt16LittleEndian(bytes[10..], (ushort)buffers);
                if (isWrong || random.Next(20) == 0)
                    random.NextBytes(bytes[..10]);
                // Right in the most, so that something is made of some.
                if (hasOffloads && random.Next(4) == 0)
                    (bytes[0], bytes[1], bytes[6], bytes[7], bytes[8], bytes[9]) = ((byte)random.Next(2), 0, (byte)random.Next(40), 0, (byte)random.Next(40), 0);
                if (isWrong && random.Next(2) == 0)
                    random.NextBytes(bytes);
                port.TryWrite(new Iova(address), bytes);
            }

            var written = isWrong && random.Next(2) == 0 ? (uint)random.Next() : (uint)random.Next(0, (int)length + 1);
            BinaryPrimitives.WriteUInt32LittleEndian(bytes, isWrong && random.Next(8) == 0 ? (uint)random.Next(2 * RingSize) : head);
            BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], written);
            port.TryWrite(new Iova(layout.DeviceArea.Value + 4 + (8 * place)), bytes[..8]);
        }

        var announced = isWrong && random.Next(8) == 0 ? random.Next() : used + buffers;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)announced);
        port.TryWrite(new Iova(layout.DeviceArea.Value + 2), bytes[..2]);
        return buffers;
    }

    private sealed class Frames : IFrameReceiver
    {
        public OffloadKinds Takes => OffloadKinds.Checksum;

        public int Count { get; private set; }

        public int Longest { get; private set; }

        public int Open { get; private set; }

        public void Receive(NetDevice device, int queue, in EthernetFrame frame)
        {
            Assert.InRange(frame.Length, 14, EthernetFrame.MaxLength);
            Assert.True(frame.TryGetNeeds(out var needs));
            Assert.Equal(OffloadKinds.None, needs & ~Takes);
            Longest = Math.Max(Longest, frame.Length);
            Open += needs == OffloadKinds.None ? 0 : 1;
            Count++;
        }
    }
}
