using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioNet;
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

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Mutated_frames_are_dropped_or_break_the_queue(bool isMergeable)
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
        var random = new Random(20_251_130);
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var frames = new Frames();
        var broken = 0;
        var answers = 0;
        while (answers < Answers)
        {
            var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioNetConfig.VIRTIO_NET_F_MAC);
            var transport = new FakeTransport
            {
                VirtioType = 1,
                DeviceFeatures = isMergeable ? features.With(VirtioNetConfig.VIRTIO_NET_F_MRG_RXBUF) : features,
                Config = [2, 0, 0, 0, 0, 1],
                QueueSize = RingSize,
            };
            var port = new DmaPort("device", transport.Group) { IsBusMaster = true };
            Assert.True(transport.Group.TryClaimForDriver("driver", out _));
            var device = await rig.Virtio.AddAsync(parent, transport);
            Assert.Equal("virtio_net", device.Driver?.Name);
            device.Children.OfType<NetDevice>().Single().AddReceiver(frames);
            var queue = device.Queues[0];
            for (var used = 0; !queue.IsBroken && used < 5000; answers++)
            {
                used += Answer(port, queue.Layout, random, used, isMergeable);
                queue.Interrupt();
            }

            broken += queue.IsBroken ? 1 : 0;
            await rig.Virtio.RemoveAsync(device).In();
            Assert.Equal(0, port.Faults);
        }

        Assert.True(broken > 10, $"{broken} broken");
        Assert.True(frames.Count > 10_000, $"{frames.Count} frames");
    }

    // The buffers are used in the order in which they were offered; mostly right.
    private static int Answer(DmaPort port, in RingLayout layout, Random random, int used, bool isMergeable)
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
                if (isWrong)
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
        public int Count { get; private set; }

        public void Receive(NetDevice device, ReadOnlySpan<byte> frame)
        {
            Assert.InRange(frame.Length, 14, 1518);
            Count++;
        }
    }
}
