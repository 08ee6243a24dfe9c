using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A disk whose device answers as it likes, seeded: each request ends, once, and one that is done has the bytes that the device wrote for it.</summary>
public sealed class VirtioBlkHostileTests
{
    private const int Answers = 100_000;
    private const int RingSize = 32;
    private const int Depth = 8;
    private const int Capacity = 1 << 20;

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public async Task Mutated_answers_are_errors_or_break_the_queue_and_no_byte_is_stale(bool isPacked, bool hasTables)
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        var random = new Random(20_251_130);
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var (broken, done, refused) = (0, 0, 0);
        for (var answers = 0; answers < Answers;)
        {
            var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioBlkConfig.VIRTIO_BLK_F_FLUSH);
            features = isPacked ? features.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : features;
            features = hasTables ? features.With(VirtioFeatures.VIRTIO_F_INDIRECT_DESC) : features;
            var config = new byte[96];
            BinaryPrimitives.WriteUInt64LittleEndian(config, Capacity / 512);
            var transport = new FakeTransport
            {
                VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK,
                DeviceFeatures = features,
                TransportFeatures = features,
                Config = config,
                QueueSize = RingSize,
            };
            var port = new DmaPort("device", transport.Group) { IsBusMaster = true };
            Assert.True(transport.Group.TryClaimForDriver("driver", out _));
            var adding = rig.Virtio.AddAsync(parent, transport).AsTask();
            var answering = new Answering(port, isPacked, hasTables);
            await Deadline.UntilAsync(() => adding.IsCompleted || answering.TryServe(transport.Queues, random: null), "the probe");
            var device = await adding.In();
            Assert.True(device.Driver?.Name == "virtio_blk", rig.Log.Text);
            var disk = device.Children.OfType<BlockDevice>().Single();
            Assert.Equal("serial", disk.Info.Serial);
            using (var user = new DiskUser(disk, Depth, 1 << 16))
            {
                var requests = Enumerable.Range(0, Depth).Select(i => user.Make(BlockOperation.Read, i * 4096, i * 4096, 1000, 1048)).ToArray();
                var isOut = new bool[Depth];
                for (var turn = 0; turn < 500; turn++)
                {
                    for (var i = 0; i < Depth; i++)
                    {
                        if (isOut[i] || random.Next(3) == 0)
                            continue;
                        requests[i].Operation = random.Next(8) == 0 ? BlockOperation.Flush : random.Next(4) == 0 ? BlockOperation.Write : BlockOperation.Read;
                        user.Bytes(i * 4096, 2048).Fill(Answering.Stale);
                        isOut[i] = !user.Channel.Submit(requests[i]);
                    }

                    user.Channel.Commit();
                    for (var n = random.Next(4); n > 0 && answering.TryServe(transport.Queues, random); n--)
                        answers++;
                    if (random.Next(2) == 0)
                        device.Queues[0].Interrupt();
                    while (user.Channel.TryReap() is { } request)
                    {
                        var i = Array.IndexOf(requests, request);
                        Assert.True(isOut[i], "a request ended twice");
                        isOut[i] = false;
                        if (request.Result != Errno.None)
                        {
                            refused++;
                            Assert.Contains(request.Result, (Errno[])[Errno.EIO, Errno.EOPNOTSUPP]);
                            continue;
                        }

                        done++;
                        if (request.Operation == BlockOperation.Read)
                            Assert.Equal(-1, user.Bytes(i * 4096, 2048).IndexOfAnyExcept(Answering.ByteOf(request.Offset)));
                    }

                    if (device.Queues[0].IsBroken && !isOut.Contains(true))
                        break;
                }

                Assert.True(!device.Queues[0].IsBroken || !isOut.Contains(true), "the queue is broken, and a request waits");
                broken += device.Queues[0].IsBroken ? 1 : 0;
                if (device.Queues[0].IsBroken)
                    Assert.Equal(Errno.EIO, user.Do(requests[0]));
                else
                    device.Queues[0].Break(new Fault(Errno.EIO, "enough"));
                while (isOut.Contains(true))
                    isOut[Array.IndexOf(requests, user.Reap())] = false;
            }

            await rig.Virtio.RemoveAsync(device).In();
            Assert.Equal(0, port.Faults);
        }

        Assert.True(broken > 50, $"{broken} broken");
        Assert.True(done > 20_000, $"{done} done");
        Assert.True(refused > 500, $"{refused} refused");
    }

    [Theory]
    [InlineData(20, 300)]
    [InlineData(20, 0)]
    [InlineData(20, 0x100000)]
    [InlineData(8, 0)]
    [InlineData(8, 511)]
    [InlineData(7, 0x80)]
    public async Task Disk_that_none_can_be_is_refused_in_a_sentence(int offset, int value)
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        var config = new byte[96];
        config[0] = 64;
        BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(8), 4096);
        BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(20), 512);
        if (offset < 8)
            config[offset] = (byte)value;
        else
            BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(offset), value);
        var transport = new FakeTransport
        {
            VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK,
            DeviceFeatures = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioBlkConfig.VIRTIO_BLK_F_SIZE_MAX, VirtioBlkConfig.VIRTIO_BLK_F_BLK_SIZE),
            Config = config,
        };
        Assert.True(transport.Group.TryClaimForDriver("driver", out _));
        var device = await rig.Virtio.AddAsync(await rig.Fabric.RegisterAsync(new Device("card")), transport);
        Assert.Null(device.Driver);
        Assert.Contains("which no disk can", rig.Log.Text, StringComparison.Ordinal);
        Assert.Equal(VirtioStatus.FAILED, transport.Status & VirtioStatus.FAILED);
    }

    [Fact]
    public async Task Fields_of_any_value_make_a_disk_that_can_be_or_none()
    {
        var random = new Random(20_251_130);
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var disks = 0;
        for (var round = 0; round < 300; round++)
        {
            var config = new byte[96];
            random.NextBytes(config);
            // Else hardly one would get past the first look.
            BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(20), 512 << random.Next(9));
            (config[7], config[6]) = (0, (byte)random.Next(80));
            config[11] = 1;
            var transport = new FakeTransport
            {
                VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK,
                DeviceFeatures = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, 1, 2, 5 + random.Next(2), 6, 9, 10, 11, 12, 13, 14),
                Config = config,
                QueueSize = 4,
            };
            var port = new DmaPort("device", transport.Group) { IsBusMaster = true };
            Assert.True(transport.Group.TryClaimForDriver("driver", out _));
            var adding = rig.Virtio.AddAsync(parent, transport).AsTask();
            var answering = new Answering(port, isPacked: false, hasTables: false);
            await Deadline.UntilAsync(() => adding.IsCompleted || answering.TryServe(transport.Queues, random: null), "the probe");
            var device = await adding.In();
            if (device.Children.OfType<BlockDevice>().SingleOrDefault() is { } disk)
            {
                disks++;
                Assert.All(
                    ["size", "ro", "serial", "queue/logical_block_size", "queue/physical_block_size", "queue/minimum_io_size", "queue/optimal_io_size", "queue/discard_granularity", "queue/discard_max_bytes", "queue/write_zeroes_max_bytes"],
                    name => Assert.DoesNotContain('-', rig.Read($"{disk.DevPath}/{name}")));
                Assert.Equal(0, disk.Info.Capacity % disk.Info.BlockSize);
                Assert.InRange(disk.Info.AlignmentOffset, 0, (1 << disk.Info.PhysicalBlockExponent) - 1);
                // The sizes change while nobody looks; what makes no sense counts for nothing.
                random.NextBytes(config.AsSpan(0, 40));
                transport.Change();
                await rig.Fabric.SettleAsync().In();
                Assert.Equal(0, disk.Info.Capacity % disk.Info.BlockSize);
            }

            await rig.Virtio.RemoveAsync(device).In();
        }

        Assert.True(disks > 100, $"{disks} disks");
    }
}
