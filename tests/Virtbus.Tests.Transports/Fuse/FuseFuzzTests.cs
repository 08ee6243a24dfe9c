using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>A kernel that asks nonsense: it is answered, once, and nothing grows.</summary>
public sealed class FuseFuzzTests
{
    private const int Mutations = 100_000;

    private static readonly FuseOpcode[] _silent = [FuseOpcode.FUSE_FORGET, FuseOpcode.FUSE_BATCH_FORGET, FuseOpcode.FUSE_INTERRUPT];

    [Fact]
    public async Task A_100_000_mutated_requests_are_each_answered_once_and_nothing_grows()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 4711;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var kernel = new FuseKernel(maxNames: 200);
        var device = new FuseDevice("one");
        await kernel.Fabric.AddAsync(device);
        string[] names = ["devices", "class", "one", "fixed", "value", "command", "bytes", "long", "broken", "refusing", "more", "inner", "", "nothing", new string('x', 300)];
        Dictionary<Errno, int> answers = [];
        List<ulong> handles = [1];
        for (var i = 0; i < Mutations; i++)
        {
            var opcode = random.Next(20) == 0 ? (FuseOpcode)random.Next(60) : Enum.GetValues<FuseOpcode>()[random.Next(Enum.GetValues<FuseOpcode>().Length)];
            // Names are forgotten as fast as they are found, were it not for that.
            if (random.Next(3) == 0)
                opcode = FuseOpcode.FUSE_LOOKUP;
            if (opcode == FuseOpcode.FUSE_DESTROY)
                continue;
            var known = kernel.Session.Nodes.All();
            var body = Body(random, opcode, names, handles);
            for (var flips = random.Next(4); flips > 0 && body.Length > 0; flips--)
                body[random.Next(body.Length)] = (byte)random.Next(256);
            if (random.Next(8) == 0)
                body = body[..random.Next(body.Length + 1)];
            var node = random.Next(10) == 0 ? (ulong)random.NextInt64() : known[random.Next(known.Length)].Id;
            // Names that are used up are forgotten, as a kernel does.
            if (i % 10_000 == 0)
            {
                foreach (var one in known)
                    kernel.Begin(FuseOpcode.FUSE_FORGET, one.Id, FuseKernel.Words(1_000_000));
            }

            var unique = kernel.Begin(opcode, node, body, (uint)random.Next(3) * 1000);
            if (_silent.Contains(opcode))
                continue;
            var (errno, answer) = kernel.End(unique);
            CollectionsMarshal.GetValueRefOrAddDefault(answers, errno, out _)++;
            if (opcode is not (FuseOpcode.FUSE_OPEN or FuseOpcode.FUSE_OPENDIR) || errno != Errno.None)
                continue;
            handles.Add(MemoryMarshal.Read<ulong>(answer));
            if (handles.Count <= 40)
                continue;
            kernel.Ask(FuseOpcode.FUSE_RELEASE, node, FuseKernel.Words(handles[0], 0, 0));
            handles.RemoveAt(0);
        }

        TestContext.Current.TestOutputHelper?.WriteLine(string.Join(", ", answers.Select(static a => $"{a.Value} {a.Key}")));
        Assert.Equal(0, kernel.Unasked);
        Assert.InRange(kernel.Session.Nodes.Count, 1, 200);
        Assert.InRange(kernel.Session.Handles.Count, 0, 41);
        // Every way out was taken.
        foreach (var errno in new[] { Errno.None, Errno.ENOENT, Errno.ENOTDIR, Errno.EISDIR, Errno.EACCES, Errno.EPERM, Errno.EBADF, Errno.EINVAL, Errno.ENOSYS, Errno.EPROTO })
            Assert.True(answers.GetValueOrDefault(errno) > 10, $"{errno}: {answers.GetValueOrDefault(errno)}");
        Assert.Equal("as ever\n", kernel.ReadText("devices/one/fixed"));
    }

    private static byte[] Body(Random random, FuseOpcode opcode, string[] names, List<ulong> handles) => opcode switch
    {
        FuseOpcode.FUSE_INIT => FuseKernel.Words(7 | (40UL << 32), 0, 0, 0, 0, 0, 0, 0),
        FuseOpcode.FUSE_OPEN or FuseOpcode.FUSE_OPENDIR => FuseKernel.Words((ulong)random.Next(4)),
        FuseOpcode.FUSE_READ or FuseOpcode.FUSE_READDIR or FuseOpcode.FUSE_READDIRPLUS => FuseKernel.Transfer(handles[random.Next(handles.Count)], (ulong)random.Next(5000), (uint)random.Next(5000)),
        FuseOpcode.FUSE_WRITE when random.Next(100) is var length => FuseKernel.Transfer(handles[random.Next(handles.Count)], (ulong)random.Next(5000), (uint)length, new byte[length]),
        FuseOpcode.FUSE_POLL or FuseOpcode.FUSE_RELEASE => FuseKernel.Words(handles[random.Next(handles.Count)], 1, 1),
        FuseOpcode.FUSE_BATCH_FORGET => FuseKernel.Words((ulong)random.Next(5), (ulong)random.Next(60), 1, (ulong)random.Next(60), 1),
        FuseOpcode.FUSE_FORGET or FuseOpcode.FUSE_INTERRUPT => FuseKernel.Words((ulong)random.Next(100)),
        FuseOpcode.FUSE_SETATTR => new byte[88],
        _ => FuseKernel.Name(names[random.Next(names.Length)]),
    };
}
