using System.IO.Pipes;
using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Tests.Platform;

public sealed class IoRingTests : IDisposable
{
    private readonly AlignedBuffer _memory = new(64 << 10, 4096);
    private readonly string _path = Path.GetTempFileName();
    private readonly FileDescriptor _file;

    public IoRingTests()
    {
        File.WriteAllBytes(_path, [.. Enumerable.Range(0, 64 << 10).Select(i => (byte)(i >> 8))]);
        _file = FileDescriptor.TryOpen(_path, writable: true, out _)!;
    }

    public void Dispose()
    {
        _file.Dispose();
        _memory.Dispose();
        File.Delete(_path);
    }

    private static IoRing Make(int entries)
    {
        var ring = IoRing.TryCreate(entries, out var error);
        if (ring is null)
            Assert.Skip(IoRing.Explain(error));
        return ring;
    }

    private IoVector Run(int start, int length) => new(_memory.Take(_memory.Length).Address + start, (nuint)length);

    [Fact]
    public void Batch_is_started_by_one_call_and_every_token_comes_back()
    {
        using var ring = Make(16);
        using var signal = new EventFd();
        Assert.Equal(Errno.None, ring.RegisterSignal(signal));
        Assert.Equal(Errno.None, ring.RegisterFiles(_file));
        for (var i = 0; i < 16; i++)
            Assert.True(ring.TryPrepareTransfer(false, 0, Run(i * 4096, 4096), i * 4096, false, (ulong)i));
        Assert.False(ring.TryPrepareSync(0, 99));
        Assert.Equal((16, 0), (ring.Prepared, ring.InFlight));
        var before = ring.Calls;
        Assert.Equal(Errno.None, ring.Submit());
        Assert.Equal(before + 1, ring.Calls);
        var seen = new HashSet<ulong>();
        while (seen.Count < 16)
        {
            if (!ring.TryReap(out var done))
                Assert.True(signal.Wait(TimeSpan.FromSeconds(20)));
            else
                Assert.True(done.Result == 4096 && seen.Add(done.Token));
        }

        Assert.Equal(0, ring.InFlight);
        for (var i = 0; i < 64 << 10; i += 4096)
            Assert.Equal((byte)(i >> 8), _memory.Take(_memory.Length).AsSpan()[i]);
    }

    [Fact]
    public void Run_is_written_durably_and_memory_that_is_none_is_an_error()
    {
        using var ring = Make(4);
        Assert.Equal(Errno.None, ring.RegisterFiles(_file));
        _memory.Take(8192).AsSpan().Fill(0x33);
        Assert.True(ring.TryPrepareTransfer(true, 0, Run(0, 4096), 4096, durable: true, 1));
        Assert.Equal(Errno.None, ring.Submit(waitFor: 1));
        Assert.True(ring.TryReap(out var done));
        Assert.Equal(new IoRingCompletion(1, 4096), done);
        Assert.True(ring.TryPrepareTransfer(false, 0, new IoVector(0, 4096), 4096, false, 2));
        Assert.Equal(Errno.None, ring.Submit(waitFor: 1));
        Assert.True(ring.TryReap(out done));
        Assert.Equal(Errno.EFAULT, done.Error);
        Assert.Equal(0x33, File.ReadAllBytes(_path)[4097]);
    }

    [Fact]
    public void Error_is_the_negative_result()
    {
        using var ring = Make(4);
        Assert.Equal(Errno.None, ring.RegisterFiles(_file));
        Assert.True(ring.TryPrepareTransfer(false, 1, Run(0, 4096), 0, false, 5));
        Assert.Equal(Errno.None, ring.Submit(waitFor: 1));
        Assert.True(ring.TryReap(out var done));
        Assert.Equal((5ul, Errno.EBADF), (done.Token, done.Error));
    }

    [Fact]
    public void Close_cancels_what_would_never_end()
    {
        using var server = new AnonymousPipeServerStream(PipeDirection.Out);
        using var pipe = new FileDescriptor((int)server.ClientSafePipeHandle.DangerousGetHandle());
        using var reader = pipe.Duplicate();
        pipe.SetHandleAsInvalid();
        var ring = Make(4);
        Assert.Equal(Errno.None, ring.RegisterFiles(reader));
        Assert.True(ring.TryPrepareTransfer(false, 0, Run(0, 16), -1, false, 1));
        Assert.Equal(Errno.None, ring.Submit());
        Assert.False(ring.TryReap(out _));
        Assert.Equal(1, ring.InFlight);
        var closing = new Thread(ring.Dispose);
        closing.Start();
        Assert.True(closing.Join(TimeSpan.FromSeconds(20)), "the close waits for a read of an empty pipe");
        Assert.Equal(0, ring.InFlight);
    }

    [Fact]
    public void Ring_serves_one_thread_after_another()
    {
        using var ring = Make(8);
        Assert.Equal(Errno.None, ring.RegisterFiles(_file));
        for (var i = 0; i < 10; i++)
        {
            var thread = new Thread(() =>
            {
                Assert.True(ring.TryPrepareTransfer(false, 0, Run(0, 4096), 0, false, 1));
                Assert.Equal(Errno.None, ring.Submit(waitFor: 1));
                Assert.True(ring.TryReap(out _));
            });
            thread.Start();
            thread.Join();
        }
    }
}
