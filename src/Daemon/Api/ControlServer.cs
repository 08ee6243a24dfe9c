using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Daemon.Api;

/// <summary>
/// The control interface: HTTP with JSON on a Unix socket that only the user can open. Changes go through the fabric's tree of attributes,
/// so it can do what the tree can and nothing else. Every refusal is <c>{"errno":…,"message":…}</c>.
/// </summary>
internal sealed partial class ControlServer : IAsyncDisposable
{
    private const int MaxBodyBytes = 64 << 10;
    private static readonly TimeSpan MaxSettle = TimeSpan.FromSeconds(1);
    private const int EventsWaiting = 1024;
    private static readonly TimeSpan LeastTimeToDrain = TimeSpan.FromMilliseconds(150);
    private static readonly byte[] NewLine = [(byte)'\n'];
    private readonly FabricDaemon _daemon;
    private readonly ILogger _log;
    private readonly WebApplication _app;

    private ControlServer(FabricDaemon daemon, ILoggerFactory loggers, UnixListener socket)
    {
        _daemon = daemon;
        _log = loggers.CreateLogger("Virtbus.Api");
        var builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions { ContentRootPath = AppContext.BaseDirectory });
        builder.WebHost.UseKestrelCore();
        builder.WebHost.ConfigureKestrel(options =>
        {
            options.AddServerHeader = false;
            options.Limits.MaxRequestBodySize = MaxBodyBytes;
            // What the listener takes the place of; by its path .NET would remove the file at the end, whosever it is by then.
            options.ListenHandle((ulong)socket.Descriptor.Number, listen => listen.Protocols = Microsoft.AspNetCore.Server.Kestrel.Core.HttpProtocols.Http1);
        });
        builder.Services.AddRoutingCore();
        builder.Services.AddSingleton(loggers);
        builder.Services.AddSingleton<IConnectionListenerFactory>(new ControlListener(socket, _log, daemon.Fabric.Time));
        // Signals are the program's business: it takes the fabric down in order.
        builder.Services.AddSingleton<IHostLifetime, NoLifetime>();
        _app = builder.Build();
        Map();
    }

    /// <summary>Takes connections.</summary>
    /// <param name="daemon">The daemon that is controlled.</param>
    /// <param name="loggers">Makes loggers.</param>
    /// <param name="socket">The socket; it stays the caller's, and outlives the server.</param>
    public static async Task<ControlServer> StartAsync(FabricDaemon daemon, ILoggerFactory loggers, UnixListener socket)
    {
        var server = new ControlServer(daemon, loggers, socket);
        try
        {
            await server._app.StartAsync();
        }
        catch (IOException e)
        {
            await server.DisposeAsync();
            throw new VirtbusException(Errno.EADDRINUSE, $"Control socket {socket.Path} can't be served: {e.Message}", e);
        }
        return server;
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => StopAsync(LeastTimeToDrain);

    /// <summary>Ends event streams, waits for the other requests, and takes no more connections.</summary>
    /// <param name="timeToDrain">How long requests may take that are under way; a little more when it is too short for any.</param>
    public async ValueTask StopAsync(TimeSpan timeToDrain)
    {
        // Disposing alone would cut connections off, the answer to who asked for the end among them.
        using var patience = new CancellationTokenSource(timeToDrain > LeastTimeToDrain ? timeToDrain : LeastTimeToDrain);
        await _app.StopAsync(patience.Token);
        await _app.DisposeAsync();
    }

    private void Map()
    {
        var view = _daemon.View;
        var tree = _daemon.Fabric.Tree;
        Get("/v1/status", c => AnswerAsync(c, _daemon.Describe(), ApiJson.Default.StatusAnswer));
        Get("/v1/sockets", c => AnswerAsync(c, _daemon.DescribeSockets(c.Request.Query.ContainsKey("device") ? Argument(c, "device") : null), ApiJson.Default.IReadOnlyListSocketAnswer));
        Get("/v1/mounts", c => AnswerAsync(c, _daemon.DescribeMounts(), ApiJson.Default.IReadOnlyListMountAnswer));
        Get("/v1/topology", c => AnswerAsync(c, view.Tree(), ApiJson.Default.IReadOnlyListDeviceAnswer));
        Get("/v1/devices", c => AnswerAsync(c, view.Devices(), ApiJson.Default.IReadOnlyListDeviceAnswer));
        Get("/v1/device", c => AnswerAsync(c, _daemon.DescribeDevice(Argument(c, "name")), ApiJson.Default.DeviceAnswer));
        Get("/v1/suggestions", c => AnswerAsync(c, view.Suggest(Argument(c, "device")), ApiJson.Default.IReadOnlyListSuggestionAnswer));
        Get("/v1/functions", c => AnswerAsync(c, view.Functions(), ApiJson.Default.IReadOnlyListFunctionAnswer));
        Get("/v1/function", c => AnswerAsync(c, view.Function(Argument(c, "name")), ApiJson.Default.FunctionAnswer));
        Get("/v1/kinds", c => AnswerAsync(c, view.Kinds(), ApiJson.Default.IReadOnlyListKindAnswer));
        Get("/v1/manifest", c => AnswerAsync(c, new ManifestAnswer(_daemon.Export()), ApiJson.Default.ManifestAnswer));
        Get("/v1/diff", async c => await AnswerAsync(c, await _daemon.ApplyAsync(Argument(c, "file"), isDry: true, c.RequestAborted), ApiJson.Default.ApplyAnswer));
        Post("/v1/apply", async c => await AnswerAsync(c, await _daemon.ApplyAsync(Argument(c, "file"), isDry: false, c.RequestAborted), ApiJson.Default.ApplyAnswer));
        Get("/v1/drivers", c => AnswerAsync(c, view.Drivers(), ApiJson.Default.IReadOnlyListDriverAnswer));
        Get("/v1/buses", c => AnswerAsync(c, view.Buses(), ApiJson.Default.IReadOnlyListBusAnswer));
        Get("/v1/interfaces", c => AnswerAsync(c, _daemon.DescribeInterfaces(), ApiJson.Default.IReadOnlyListInterfaceAnswer));
        Get("/v1/modules", c => AnswerAsync(c, view.Modules(), ApiJson.Default.IReadOnlyListModuleAnswer));
        Post("/v1/modules/load", async c => await AnswerAsync(c, await _daemon.LoadModuleAsync(Argument(c, "name")), ApiJson.Default.ModuleAnswer));
        Post("/v1/modules/unload", async c => await AnswerAsync(c, await _daemon.UnloadModuleAsync(Argument(c, "name"), c.Request.Query["force"] == "true"), ApiJson.Default.UnloadAnswer));
        Get("/v1/tree", c => AnswerAsync(c, Describe(tree, Argument(c, "path")), ApiJson.Default.NodeAnswer));
        Handle("PUT", "/v1/tree", async c =>
        {
            using var body = new StreamReader(c.Request.Body, new UTF8Encoding(false, true));
            await tree.WriteAsync(Argument(c, "path"), await body.ReadToEndAsync(c.RequestAborted), c.RequestAborted);
            // What the write set off beside itself (a disk that comes back, a module that loads) is done when the answer goes, unless it takes long.
            await _daemon.SettleAsync(MaxSettle, c.RequestAborted);
            c.Response.StatusCode = StatusCodes.Status204NoContent;
        });
        Get("/v1/events", StreamEventsAsync);
        Post("/v1/shutdown", async c =>
        {
            _daemon.RequestShutdown();
            await AnswerAsync(c, await _daemon.TakenDown, ApiJson.Default.ShutdownAnswer);
        });
        _app.MapFallback(Guard(c => throw new VirtbusException(Errno.ENOENT, $"The control interface has no {c.Request.Method} {c.Request.Path}. docs/cli.md lists what it has.")));
    }

    private void Get(string route, Func<HttpContext, Task> handle) => Handle("GET", route, handle);

    private void Post(string route, Func<HttpContext, Task> handle) => Handle("POST", route, handle);

    private void Handle(string method, string route, Func<HttpContext, Task> handle) => _app.MapMethods(route, [method], Guard(handle));

    private RequestDelegate Guard(Func<HttpContext, Task> handle) => async context =>
    {
        Errno errno;
        string message;
        try
        {
            await handle(context);
            return;
        }
        catch (VirtbusException e)
        {
            (errno, message) = (e.Errno, e.Message);
        }
        catch (BadHttpRequestException e) when (e.StatusCode == StatusCodes.Status413PayloadTooLarge)
        {
            (errno, message) = (Errno.E2BIG, $"The request has more than {MaxBodyBytes} bytes. Write less.");
        }
        catch (BadHttpRequestException e)
        {
            // The client's mistake, a body that ends too soon for one: no line of the log is due to it.
            (errno, message) = (Errno.EINVAL, $"The body of the request is none that HTTP has: {e.Message}");
        }
        catch (DecoderFallbackException)
        {
            (errno, message) = (Errno.EINVAL, "The value is no UTF-8 text. Write text.");
        }
        catch (Exception) when (context.RequestAborted.IsCancellationRequested)
        {
            // The client has gone: nobody is left to answer.
            return;
        }
        catch (Exception e)
        {
            RequestFailed(_log, context.Request.Method, context.Request.Path.Value ?? "", e);
            (errno, message) = (Errno.EIO, $"{context.Request.Method} {context.Request.Path} failed inside the daemon: {e.Message} Its log has the details.");
        }
        if (context.Response.HasStarted)
        {
            context.Abort();
            return;
        }
        context.Response.StatusCode = StatusOf(errno);
        await AnswerAsync(context, new ErrorAnswer(errno.ToString(), message), ApiJson.Default.ErrorAnswer);
    };

    private static int StatusOf(Errno errno) => errno switch
    {
        Errno.ENOENT or Errno.ENODEV or Errno.ENXIO => StatusCodes.Status404NotFound,
        Errno.EACCES or Errno.EPERM => StatusCodes.Status403Forbidden,
        Errno.EBUSY or Errno.EEXIST or Errno.EDEADLK => StatusCodes.Status409Conflict,
        Errno.E2BIG => StatusCodes.Status413PayloadTooLarge,
        Errno.EAGAIN or Errno.ECANCELED => StatusCodes.Status503ServiceUnavailable,
        Errno.EOPNOTSUPP or Errno.ENOSYS => StatusCodes.Status501NotImplemented,
        Errno.EIO => StatusCodes.Status500InternalServerError,
        _ => StatusCodes.Status400BadRequest,
    };

    private static string Argument(HttpContext context, string name) =>
        context.Request.Query[name] is [{ Length: > 0 } value]
            ? value
            : throw new VirtbusException(Errno.EINVAL, $"{context.Request.Path} needs '{name}' once in its query.");

    private static async Task AnswerAsync<T>(HttpContext context, T answer, JsonTypeInfo<T> type)
    {
        var bytes = JsonSerializer.SerializeToUtf8Bytes(answer, type);
        context.Response.ContentType = "application/json";
        context.Response.ContentLength = bytes.Length;
        await context.Response.Body.WriteAsync(bytes, context.RequestAborted);
    }

    private static NodeAnswer Describe(FabricTree tree, string path) => tree.Find(path, follow: true, out var place) switch
    {
        TreeFile file => new NodeAnswer(path, "file", Mode(file), file.Read(), null),
        TreeDirectory directory => new NodeAnswer(path, "directory", null, null, [.. directory.List().Select(n => DescribeEntry(n, place)).OrderBy(e => e.Name, StringComparer.Ordinal)]),
        _ => throw new VirtbusException(Errno.ENOENT, $"{path} leads nowhere."),
    };

    private static EntryAnswer DescribeEntry(TreeNode node, string place) => node switch
    {
        TreeFile file => new EntryAnswer(file.Name, "file", Mode(file), null),
        TreeLink link => new EntryAnswer(link.Name, "link", null, link.TextFrom(place)),
        _ => new EntryAnswer(node.Name, "directory", null, null),
    };

    private static string Mode(TreeFile file) => Convert.ToString(file.Mode & 0xFFF, 8).PadLeft(4, '0');

    private async Task StreamEventsAsync(HttpContext context)
    {
        using var end = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _app.Lifetime.ApplicationStopping);
        var log = _daemon.Fabric.Uevents;
        // Subscribed before the history is read, so that no event falls between the two.
        using var subscription = log.Subscribe(EventsWaiting);
        var sent = log.Seqnum;
        context.Response.ContentType = "application/x-ndjson";
        if (context.Request.Query["history"] == "true")
        {
            var history = log.History();
            var first = history.Count == 0 ? 1 : history[0].Seqnum;
            await WriteAsync(context, first - 1, history);
            sent = history.Count == 0 ? 0 : history[^1].Seqnum;
        }
        await context.Response.StartAsync(end.Token);
        await context.Response.Body.FlushAsync(end.Token);
        try
        {
            while (true)
            {
                var batch = await subscription.ReadAsync(end.Token);
                await WriteAsync(context, batch.Lost, batch.Events.Where(e => e.Seqnum > sent));
                await context.Response.Body.FlushAsync(end.Token);
            }
        }
        catch (OperationCanceledException) when (end.IsCancellationRequested)
        {
            // The reader has gone, or the daemon ends: either is the normal end of the stream.
        }
    }

    private static async Task WriteAsync(HttpContext context, long lost, IEnumerable<Uevent> events)
    {
        if (lost > 0)
            await WriteLineAsync(new UeventAnswer(null, null, null, null, null, lost));
        foreach (var e in events)
            await WriteLineAsync(new UeventAnswer(e.Seqnum, e.ActionName, e.DevPath, e.Subsystem, e.Variables.ToDictionary(), null));

        async Task WriteLineAsync(UeventAnswer answer)
        {
            await context.Response.Body.WriteAsync(JsonSerializer.SerializeToUtf8Bytes(answer, ApiJson.Default.UeventAnswer), context.RequestAborted);
            await context.Response.Body.WriteAsync(NewLine, context.RequestAborted);
        }
    }

    [LoggerMessage(501, LogLevel.Error, "{Method} {Path} failed")]
    private static partial void RequestFailed(ILogger log, string method, string path, Exception error);

    private sealed class NoLifetime : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
