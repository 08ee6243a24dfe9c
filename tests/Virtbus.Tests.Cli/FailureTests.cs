using System.Reflection;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>What a verb that failed says, whatever its failure comes wrapped in.</summary>
public sealed class FailureTests
{
    private const string Sentence = "The host has no descriptor left. Raise the limit (ulimit -n).";

    // The program is none that a test refers to.
    private static readonly Assembly _program = Assembly.LoadFrom(TestFabric.Program + ".dll");

    private static readonly MethodInfo _tell = _program.GetType("Virtbus.Cli.Failure", throwOnError: true)!.GetMethod("Tell")!;

    private static readonly Func<Exception, Exception>[] _wraps =
    [
        e => e, e => new TypeInitializationException("Some", e), e => new TargetInvocationException(e), e => new AggregateException(e),
        e => new TypeInitializationException("Some", new AggregateException(new TargetInvocationException(e))),
    ];

    [Fact]
    public void Refusal_is_its_sentence_alone() =>
        Assert.All(_wraps, wrap => Assert.Equal((1, $"virtbus: {Sentence}\n"), Tell(wrap(new VirtbusException(Errno.EMFILE, Sentence)))));

    [Fact]
    public void Reader_that_has_gone_is_told_nothing()
    {
        var type = _program.GetType("Virtbus.Cli.Text.OutputException", throwOnError: true)!;
        Assert.All(_wraps, wrap => Assert.Equal((141, ""), Tell(wrap((Exception)Activator.CreateInstance(type, Errno.EPIPE)!))));
    }

    private static (int Code, string Said) Tell(Exception error)
    {
        using var output = new StringWriter { NewLine = "\n" };
        var code = (int)_tell.Invoke(null, [error, output])!;
        return (code, output.ToString());
    }
}
